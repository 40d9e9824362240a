use std::time::Duration;

use super::*;
use crate::bridge::Pace;
use crate::bridge::line::parse;
use crate::name::{NetworkName, Nick};

/// A session and the time, which stands still unless a test moves it.
struct Fixture {
    session: Session,
    now: Instant,
}

impl Fixture {
    fn new(house: bool) -> Self {
        let link = Link {
            name: NetworkName::parse("net").unwrap(),
            server: "irc.test:6667".into(),
            nick: Nick::parse("meshfs").unwrap(),
            channels: vec![Channel::parse("#mesh").unwrap(), Channel::parse("#ops").unwrap()],
            password: Some("secret".into()),
            house,
            pace: Pace::default(),
        };
        let now = Instant::now();
        Self { session: Session::new(Arc::new(link), Timing::default(), now), now }
    }

    /// Welcomed, and in `#mesh` with an operator `op`, past the quarantine.
    fn joined() -> Self {
        let mut fixture = Self::new(false);
        fixture.welcome();
        fixture.receive(":meshfs!m@h JOIN #mesh");
        fixture.receive(":s 353 meshfs = #mesh :@meshfs @op bob");
        fixture.receive(":s 366 meshfs #mesh :End");
        fixture.receive(":meshfs!m@h JOIN #ops");
        fixture.pass(10);
        fixture
    }

    fn welcome(&mut self) {
        self.receive(":s 001 meshfs :Welcome");
        self.receive(":s 005 meshfs PREFIX=(ov)@+ CHANMODES=b,k,lH,imnt BOT=B :are supported");
        self.receive(":s 376 meshfs :End of MOTD");
    }

    fn receive(&mut self, line: &str) -> Vec<Action> {
        self.session.receive(parse(line).as_ref(), self.now)
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn tick_after(&mut self, seconds: u64) -> Vec<Action> {
        self.pass(seconds);
        self.session.tick(self.now)
    }

    fn obeys(&mut self, line: &str) -> bool {
        let actions = self.receive(line);
        actions.iter().any(|action| matches!(action, Action::Announce { .. }))
    }

    fn reply(&mut self, line: &str) -> Option<String> {
        self.receive(line).into_iter().find_map(|action| match action {
            Action::Reply { text, .. } => Some(text),
            _ => None,
        })
    }
}

fn write(line: &str) -> Action {
    Action::Write(line.into())
}

#[test]
fn the_first_lines_are_password_capabilities_nick_and_user() {
    let lines = Fixture::new(false).session.open();
    assert_eq!(lines[..3], ["PASS :secret", "CAP LS 302", "NICK meshfs"]);
    assert!(lines[3].starts_with("USER meshfs 0 * :") && lines.len() == 4);
}

#[test]
fn only_capabilities_that_are_offered_are_asked_for() {
    let mut fixture = Fixture::new(false);
    assert_eq!(fixture.receive(":s CAP * LS * :sasl=PLAIN,EXTERNAL batch account-tag"), []);
    let asked = fixture.receive(":s CAP * LS :server-time echo-message");
    assert_eq!(asked, [write("CAP REQ :batch server-time")]);
    assert_eq!(fixture.receive(":s CAP meshfs ACK :batch server-time "), [write("CAP END")]);
    assert!(fixture.session.server_time);

    assert_eq!(Fixture::new(false).receive(":s CAP * LS :"), [write("CAP END")]);
    assert_eq!(Fixture::new(false).receive(":s CAP * LS :tls"), [write("CAP END")]);
    let mut refused = Fixture::new(false);
    refused.receive(":s CAP * LS :batch");
    assert_eq!(refused.receive(":s CAP * NAK :batch"), [write("CAP END")]);
    assert!(!refused.session.server_time);
}

#[test]
fn channels_are_joined_at_the_end_of_the_motd_or_when_there_is_none() {
    let mut fixture = Fixture::new(false);
    assert_eq!(fixture.receive(":s 001 meshfs :Welcome"), [Action::Welcomed]);
    fixture.receive(":s 005 meshfs BOT=B :are supported");
    let ready = fixture.receive(":s 422 meshfs :no motd");
    assert_eq!(ready, [write("MODE meshfs +B"), write("JOIN #mesh,#ops")]);
    assert_eq!(fixture.receive(":s 376 meshfs :again"), []);

    let mut silent = Fixture::new(false);
    silent.receive(":s 001 meshfs :Welcome");
    assert_eq!(silent.session.due_at(), silent.now + Timing::default().motd);
    assert_eq!(silent.tick_after(5), [write("JOIN #mesh,#ops")]);
}

#[test]
fn a_nick_in_use_leads_to_another_and_back() {
    let mut fixture = Fixture::new(false);
    assert_eq!(fixture.receive(":s 433 * meshfs :in use"), [write("NICK meshfs_")]);
    assert_eq!(fixture.receive(":s 433 * meshfs_ :in use"), [write("NICK meshfs__")]);
    let third = fixture.receive(":s 432 * meshfs__ :too long");
    assert!(matches!(&third[..], [Action::Write(line)] if line.len() == "NICK meshfs123".len()));
    fixture.receive(":s 001 meshfs_ :Welcome");
    fixture.receive(":s 376 meshfs_ :End");
    fixture.receive(":s 433 meshfs_ meshfs :still in use");
    assert_eq!(fixture.session.nick(), "meshfs_");
    assert_eq!(fixture.receive(":other!u@h QUIT :bye"), []);
    assert_eq!(fixture.receive(":MESHFS!u@h QUIT :bye"), [write("NICK meshfs")]);
    fixture.receive(":meshfs_!m@h NICK :meshfs");
    assert_eq!(fixture.session.nick(), "meshfs");

    let mut taken = Fixture::new(false);
    let all = (0..9).flat_map(|_| taken.receive(":s 433 * x :in use")).collect::<Vec<_>>();
    assert!(matches!(all.last(), Some(Action::End(ConnectionError::Nick(_)))), "{all:?}");
}

#[test]
fn a_wrong_nick_is_asked_for_again_every_minute() {
    let mut fixture = Fixture::new(false);
    fixture.receive(":s 001 meshfs_ :Welcome");
    fixture.receive(":s 376 meshfs_ :End");
    fixture.pass(59);
    fixture.receive("PING :x");
    assert!(!fixture.session.tick(fixture.now).contains(&write("NICK meshfs")));
    assert!(fixture.tick_after(1).contains(&write("NICK meshfs")));
    assert!(!fixture.session.tick(fixture.now).contains(&write("NICK meshfs")));
}

#[test]
fn who_is_refused_is_told_apart_from_who_is_unlucky() {
    let permanent = |line: &str| match Fixture::new(false).receive(line).pop() {
        Some(Action::End(error)) => error.is_permanent(),
        other => panic!("{other:?}"),
    };
    assert!(permanent(":s 464 * :Password incorrect"));
    assert!(permanent(":s 465 * :You are banned"));
    assert!(permanent("ERROR :Access denied: Bad password?"));
    assert!(!permanent("ERROR :Closing link: server full"));
}

#[test]
fn a_silent_server_is_given_up_before_and_after_the_welcome() {
    let end = |error: &str, actions: &[Action]| {
        assert!(matches!(actions, [Action::End(e)] if e.to_string() == error), "{actions:?}");
    };
    let mut never = Fixture::new(false);
    assert_eq!(never.tick_after(29), []);
    end("the server did not welcome us in time", &never.tick_after(1));

    let mut later = Fixture::joined();
    later.receive(":s NOTICE meshfs :x");
    assert_eq!(later.tick_after(59), []);
    assert_eq!(later.tick_after(1), [write("PING :meshfs-0")]);
    assert_eq!(later.receive(":s PONG s :meshfs-0"), [Action::Answered(Some(0))]);
    later.tick_after(60);
    assert_eq!(later.session.due_at(), later.now + Duration::from_secs(30));
    end("the server fell silent", &later.tick_after(30));
}

#[test]
fn a_server_that_talks_but_never_answers_is_given_up_too() {
    let mut fixture = Fixture::joined();
    fixture.session.asked(fixture.now);
    for _ in 0..5 {
        fixture.receive("PING :alive");
        assert_eq!(fixture.tick_after(20), []);
    }
    fixture.receive("PING :alive");
    assert!(matches!(fixture.tick_after(20)[..], [Action::End(ConnectionError::Silent)]));
}

#[test]
fn an_answer_to_ping_cannot_be_made_to_carry_more() {
    let mut fixture = Fixture::new(false);
    assert_eq!(fixture.receive("PING :a b"), [write("PONG :a b")]);
    let long = fixture.receive(&format!("PING :{}", "é".repeat(4_000)));
    assert!(matches!(&long[..], [Action::Write(line)] if line.len() <= 410));
}

#[test]
fn only_operators_and_voiced_announce_on_a_network_and_anybody_in_the_house() {
    let mut fixture = Fixture::joined();
    let announced = fixture.receive(":op!o@h PRIVMSG #Mesh :!snapshot migrating schema");
    let by = Speaker {
        channel: Channel::parse("#mesh").unwrap(),
        nick: "op".into(),
        mask: "op!o@h".into(),
    };
    assert!(announced.contains(&Action::Announce { by, reason: "migrating schema".into() }));
    let refused = fixture.reply(":bob!b@h PRIVMSG #mesh :!snapshot x").unwrap();
    assert!(refused.starts_with("bob: only channel operators and voiced"), "{refused}");
    fixture.receive(":op!o@h MODE #mesh +v bob");
    assert!(fixture.obeys(":bob!b@h PRIVMSG #mesh :!snapshot x"));
    fixture.receive(":op!o@h KICK #mesh bob :out");
    fixture.receive(":bob!b@h JOIN #mesh");
    assert!(!fixture.obeys(":bob!b@h PRIVMSG #mesh :!snapshot stale"));
    assert_eq!(fixture.receive(":op!o@h MODE #mesh +Z x"), [write("NAMES #mesh")]);
    assert!(!fixture.obeys(":op!o@h PRIVMSG #mesh :!snapshot unknown mode"));

    let mut house = Fixture::new(true);
    house.welcome();
    house.receive(":meshfs!m@h JOIN #mesh");
    assert!(house.obeys(":anybody!a@h PRIVMSG #mesh :!snapshot x"));
    assert_eq!(
        house.reply(":anybody!a@h PRIVMSG #mesh :!snapshot").unwrap(),
        "anybody: say why: !snapshot <reason>"
    );
}

#[test]
fn what_nobody_just_typed_in_a_channel_is_never_obeyed() {
    let mut fixture = Fixture::joined();
    fixture.receive(":op!o@h MODE #ops +o op");
    fixture.receive(":op!o@h KICK #ops meshfs");
    for line in [
        ":op!o@h NOTICE #mesh :!snapshot x",
        ":meshfs!m@h PRIVMSG #mesh :!snapshot x",
        ":op!o@h PRIVMSG #mesh :\x01ACTION !snapshot x\x01",
        ":op!o@h PRIVMSG #other :!snapshot x",
        ":op!o@h PRIVMSG @#mesh :!snapshot x",
        ":op!o@h PRIVMSG meshfs :!snapshot x",
        ":op!o@h PRIVMSG #ops :!snapshot in a channel we are not in",
        ":irc.test.net PRIVMSG #mesh :!snapshot x",
        "PRIVMSG #mesh :!snapshot x",
    ] {
        assert!(!fixture.obeys(line), "{line}");
    }
    assert!(fixture.obeys(":op!o@h PRIVMSG #mesh :!snapshot x"));
    assert_eq!(fixture.receive(":MeshFS!m@h PRIVMSG #mesh :our own echo"), []);
}

#[test]
fn replayed_history_is_neither_obeyed_nor_passed_on() {
    let mut fixture = Fixture::new(false);
    fixture.receive(":s CAP * LS :batch server-time");
    fixture.receive(":s CAP meshfs ACK :batch server-time");
    fixture.welcome();
    fixture.receive("@time=2026-06-16T14:19:07.000Z :meshfs!m@h JOIN #mesh");
    fixture.receive(":s 353 meshfs = #mesh :@op");
    fixture.receive(":s 366 meshfs #mesh :End");
    let old = "@time=2026-06-16T14:19:06.999Z :op!o@h PRIVMSG #mesh :!snapshot old";
    assert_eq!(fixture.receive(old), []);
    fixture.receive(":s BATCH +a chathistory #mesh");
    fixture.receive("@batch=a :s BATCH +b draft/multiline #mesh");
    for batch in ["a", "b"] {
        let line = format!(
            "@batch={batch};time=2026-06-16T15:00:00.000Z :op!o@h PRIVMSG #mesh :!snapshot x"
        );
        assert_eq!(fixture.receive(&line), [], "{batch}");
    }
    fixture.receive(":s BATCH -b");
    fixture.receive(":s BATCH -a");
    fixture.receive(":s BATCH +n netjoin a b");
    assert!(
        fixture
            .obeys("@time=2026-06-16T14:19:08.000Z;batch=n :op!o@h PRIVMSG #mesh :!snapshot new")
    );
}

#[test]
fn without_times_nothing_counts_right_after_a_join() {
    let mut fixture = Fixture::new(false);
    fixture.welcome();
    fixture.receive(":meshfs!m@h JOIN #mesh");
    fixture.receive(":s 353 meshfs = #mesh :@op");
    fixture.receive(":s 366 meshfs #mesh :End");
    assert_eq!(fixture.receive(":op!o@h PRIVMSG #mesh :!snapshot old"), []);
    fixture.pass(3);
    assert!(fixture.obeys(":op!o@h PRIVMSG #mesh :!snapshot new"));
}

#[test]
fn after_six_commands_a_minute_there_is_silence_whatever_the_nick() {
    let mut fixture = Fixture::joined();
    let asks = |fixture: &mut Fixture, nick: &str| {
        let actions = fixture.receive(&format!(":{nick}!u@h PRIVMSG #mesh :!nodes"));
        actions.iter().any(|action| matches!(action, Action::Ask { .. }))
    };
    let answered = (0..20).filter(|n| asks(&mut fixture, &format!("bob{n}"))).count();
    assert_eq!(answered, 6);
    fixture.pass(60);
    assert!(asks(&mut fixture, "bob"));

    let mut house = Fixture::new(true);
    house.welcome();
    house.receive(":meshfs!m@h JOIN #mesh");
    let answered = |house: &mut Fixture, nick: &str| (0..9).filter(|_| asks(house, nick)).count();
    assert_eq!([answered(&mut house, "bob"), answered(&mut house, "eve")], [6, 6]);
}

#[test]
fn ctcp_is_answered_to_its_sender_alone_and_seldom() {
    let mut fixture = Fixture::joined();
    assert_eq!(fixture.receive(":bob!b@h PRIVMSG #mesh :\x01VERSION\x01"), []);
    let version = fixture.receive(":bob!b@h PRIVMSG meshfs :\x01VERSION\x01");
    assert!(
        matches!(&version[..], [Action::Write(line)] if line.starts_with("NOTICE bob :\x01VERSION meshfs "))
    );
    assert_eq!(fixture.receive(":bob!b@h PRIVMSG meshfs :\x01PING 1\x01"), []);
    fixture.pass(3);
    let ping = fixture.receive(":bob!b@h PRIVMSG meshfs :\x01PING 1\x01");
    assert_eq!(ping, [write("NOTICE bob :\x01PING 1\x01")]);
}

#[test]
fn what_the_server_refuses_is_said_again_when_it_may_be() {
    let mut fixture = Fixture::joined();
    let mesh = Channel::parse("#mesh").unwrap();
    let room = fixture.session.room(&mesh, fixture.now).unwrap();
    assert_eq!(room, 510 - ":meshfs!m@h PRIVMSG #mesh :".len());
    let refused = fixture.receive(":s 404 meshfs #MESH :Cannot send to channel");
    assert_eq!(refused, [Action::Rejected(mesh.clone())]);
    assert_eq!(fixture.session.room(&mesh, fixture.now), None);
    for numeric in ["404", "477", "531"] {
        fixture.receive(":op!o@h MODE #mesh -m");
        assert!(fixture.session.room(&mesh, fixture.now).is_some());
        fixture.receive(&format!(":s {numeric} meshfs #mesh :no"));
        assert_eq!(fixture.session.room(&mesh, fixture.now), None, "{numeric}");
        assert_eq!(fixture.session.membership.due_at(), None, "we are still in");
    }
    fixture.receive(":op!o@h KICK #mesh meshfs :out");
    assert_eq!(fixture.session.room(&mesh, fixture.now), None);
    assert!(fixture.tick_after(5).contains(&write("JOIN #mesh")));
    for numeric in ["471", "473", "474", "475", "477", "403", "405"] {
        let refused = fixture.receive(&format!(":s {numeric} meshfs #mesh :no"));
        assert_eq!(refused, [Action::Rejected(mesh.clone())], "{numeric}");
    }
    fixture.receive(":op!o@h INVITE meshfs :#other");
    assert!(!fixture.session.tick(fixture.now).contains(&write("JOIN #mesh")));
    fixture.receive(":op!o@h INVITE meshfs :#mesh");
    assert!(fixture.session.tick(fixture.now).contains(&write("JOIN #mesh")));
}

#[test]
fn a_channel_we_never_wanted_is_left() {
    let mut fixture = Fixture::joined();
    assert_eq!(fixture.receive(":meshfs!m@h JOIN ##overflow"), [write("PART ##overflow")]);
    assert_eq!(fixture.receive(":bob!m@h JOIN ##overflow"), []);
}

#[test]
fn odd_lines_are_survived() {
    let mut fixture = Fixture::joined();
    for line in [
        "MODE",
        "MODE #mesh",
        ":x MODE #mesh +o",
        "353",
        "366",
        ":s 353 meshfs",
        "404",
        ":s 404",
        "KICK",
        "NICK",
        ":a NICK",
        "JOIN",
        "BATCH",
        "BATCH +",
        "BATCH -",
        "PONG",
        "CAP",
        "CAP LS",
        "PING",
        "INVITE",
        "001",
        ":s 005",
        "@time=x;batch :a!b@c PRIVMSG #mesh :x",
        "ERROR",
        ":meshfs!m@h NICK",
        "QUIT",
        ":s BATCH +x",
        ":s 005 meshfs PREFIX CHANMODES NICKLEN=x BOT= :x",
    ] {
        fixture.receive(line);
    }
    fixture.session.receive(None, fixture.now);
}
