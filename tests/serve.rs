//! `meshfs serve` as a process of its own, with real clients and on every
//! broker: what is left after `kill -9`, ten thousand topics, a hundred
//! announcements, a zfs that hangs, and a broker that goes away.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where it fails"
)]
#![allow(clippy::print_stderr, reason = "a skip is said")]
#![allow(dead_code, reason = "the hub's helpers are shared with other tests")]

#[path = "clients/announcements.rs"]
mod announcements;
#[path = "clients/attacks.rs"]
mod attacks;
#[path = "clients/attacks_connections.rs"]
mod attacks_connections;
#[path = "clients/attacks_files.rs"]
mod attacks_files;
#[path = "clients/attacks_http.rs"]
mod attacks_http;
#[path = "clients/attacks_identity.rs"]
mod attacks_identity;
#[path = "clients/broker.rs"]
mod broker;
#[path = "clients/external.rs"]
mod external;
#[path = "clients/external_away.rs"]
mod external_away;
#[path = "clients/external_login.rs"]
mod external_login;
#[path = "clients/hub.rs"]
mod hub;
#[path = "clients/live.rs"]
mod live;
#[path = "clients/raw.rs"]
mod raw;
#[path = "clients/retained.rs"]
mod retained;

use hub::Hub;

/// Makes a test of each of these functions for each kind of broker.
macro_rules! acceptance {
    ($kinds:tt $tests:tt) => { acceptance!(@kinds $kinds $tests); };
    (@kinds [$($name:ident = $kind:ident),+ $(,)?] $tests:tt) => {
        $(mod $name { acceptance!(@tests $kind $tests); })+
    };
    (@tests $kind:ident [$($file:ident::$test:ident),+ $(,)?]) => {
        $(
            #[test]
            fn $test() {
                crate::$file::$test(crate::broker::Kind::$kind);
            }
        )+
    };
}

// What holds on every broker.
acceptance! {
    [
        embedded = Embedded,
        mosquitto_v4 = Mosquitto4,
        mosquitto_v5 = Mosquitto5,
        mosquitto_tls = MosquittoTls,
        nats = Nats,
    ]
    [
        announcements::a_hundred_announcements_at_once_share_few_snapshots,
        announcements::a_snapshot_holds_what_was_accepted_before_and_is_told_on_every_door,
        announcements::a_zfs_that_hangs_is_a_failure_in_time_on_every_door_and_heartbeats_go_on,
        announcements::http_answers_bad_requests_with_problem_details,
        retained::ten_thousand_heartbeats_are_ten_thousand_files_and_all_delivered_again,
        retained::a_snapshot_waits_for_every_file_that_was_accepted_before_it,
    ]
}

// What there is to show only where the broker is another.
mod other {
    acceptance! {
        [mosquitto_v4 = Mosquitto4, mosquitto_v5 = Mosquitto5, nats = Nats]
        [
            external::what_breaks_the_contract_is_said_and_not_kept,
            external::the_retain_flag_is_found_out_and_what_the_contract_keeps_is_kept,
            external::a_retained_announcement_is_no_announcement,
            external::the_hubs_words_are_decided_on_once,
            external::the_broker_says_when_the_hub_is_gone,
            external_away::a_hub_that_finds_no_broker_works_and_catches_up,
            external_away::what_happened_while_the_hub_was_away_is_taken_over,
            external_away::a_broker_that_was_killed_ends_with_what_the_tree_has,
            external_away::a_broker_killed_under_load_leaves_nothing_stale,
        ]
    }
}
