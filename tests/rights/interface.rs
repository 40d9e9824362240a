//! HTTP with users.

use super::{Guarded, PASSWORD};
use serde_json::Value;

/// The header line of a login.
pub(super) fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    let pair = base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}"));
    format!("Authorization: Basic {pair}\r\n")
}

impl Guarded {
    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String, Value) {
        let headers = format!("Host: {}\r\n{headers}", self.hub.http);
        let (head, body) = self.hub.request_with(method, path, &headers, body);
        let body = serde_json::from_str(&body).unwrap_or(Value::Null);
        (head[9..12].parse().unwrap(), head, body)
    }

    fn status(&self, method: &str, path: &str, headers: &str) -> u16 {
        self.ask(method, path, headers, "about to restart").0
    }
}

#[test]
fn a_login_is_asked_for_and_the_health_of_the_hub_is_not_a_secret() {
    let guarded = Guarded::start();
    for path in ["/v1/nodes", "/v1/snapshots", "/v1/announcements", "/nowhere"] {
        let (status, head, problem) = guarded.ask("GET", path, "", "");
        assert_eq!(status, 401, "{path}");
        assert!(head.contains("www-authenticate: Basic realm=\"meshfs\""), "{head}");
        assert!(problem["detail"].as_str().unwrap().contains("user name"), "{problem}");
    }
    assert_eq!(guarded.status("GET", "/healthz", ""), 200);
    assert_eq!(guarded.status("GET", "/readyz", ""), 200);
    assert_eq!(guarded.status("GET", "/v1/nodes", &basic("wall", PASSWORD)), 200);
    assert_eq!(guarded.status("GET", "/v1/nodes", &basic("wall", "wrong one")), 401);
    assert_eq!(guarded.status("GET", "/v1/nodes", "Authorization: Bearer x\r\n"), 401);
    let nameless = Guarded::start_with("operator", "");
    assert_eq!(nameless.status("GET", "/v1/nodes", ""), 200);
    assert_eq!(nameless.status("GET", "/v1/nodes", &basic("wall", "wrong one")), 401);
    assert_eq!(nameless.status("GET", "/v1/nodes", "Authorization: Bearer x\r\n"), 401);
}

#[test]
fn a_role_is_the_same_here_as_on_the_bus() {
    let guarded = Guarded::start();
    for (user, reads, announces) in
        [("anna", 200, 201), ("wall", 200, 403), ("web1", 403, 201), ("crm", 403, 201)]
    {
        let login = basic(user, PASSWORD);
        assert_eq!(guarded.status("GET", "/v1/nodes", &login), reads, "{user}");
        let (status, _, outcome) = guarded.ask("POST", "/v1/announcements", &login, "restarting");
        assert_eq!(status, announces, "{user}: {outcome}");
        if announces == 201 {
            assert_eq!(outcome["by"]["user"], user);
        }
    }
    let nobody = Guarded::start_with("dashboard", "");
    assert_eq!(nobody.status("GET", "/v1/nodes", ""), 200);
    assert_eq!(nobody.status("POST", "/v1/announcements", ""), 403);
}

#[test]
fn a_login_allows_other_names_of_the_hub_but_no_other_pages() {
    let guarded = Guarded::start_with("operator", "");
    let ask = |host: &str, more: &str| {
        let headers = format!("Host: {host}\r\n{more}");
        let (head, _) = guarded.hub.request_with("GET", "/v1/nodes", &headers, "");
        head[9..12].parse::<u16>().unwrap()
    };
    let anna = basic("anna", PASSWORD);
    assert_eq!(ask("hub.example", &anna), 200);
    assert_eq!(ask("hub.example", ""), 403, "this may be a page that calls itself so");
    assert_eq!(ask("localhost", ""), 200);
    let foreign = format!("{anna}Origin: http://evil.example\r\n");
    assert_eq!(ask("hub.example", &foreign), 403);
}

#[test]
fn an_answer_is_not_sent_where_the_announcer_may_not_write() {
    let guarded = Guarded::start();
    let body = r#"{"reason":"x","reply_to":"mesh/app/config"}"#;
    let (status, _, problem) =
        guarded.ask("POST", "/v1/announcements", &basic("web1", PASSWORD), body);
    assert_eq!(status, 400, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("mesh/app/replies/"), "{problem}");
    let own = r#"{"reason":"x","reply_to":"mesh/app/replies/web1/1"}"#;
    assert_eq!(guarded.ask("POST", "/v1/announcements", &basic("web1", PASSWORD), own).0, 201);
}
