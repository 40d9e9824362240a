use super::*;
use std::fs;
use std::path::Path;

const PASSWORD: &str = "correct horse";
const HERE: &str = "127.0.0.1";
const THERE: &str = "192.0.2.7";

struct Bench {
    dir: tempfile::TempDir,
    access: Access,
}

/// One hash for all tests: making one is expensive.
fn hashed() -> &'static str {
    static HASHED: std::sync::OnceLock<Hashed> = std::sync::OnceLock::new();
    HASHED.get_or_init(|| Hashed::make(PASSWORD).unwrap()).as_str()
}

fn write(dir: &Path, text: &str) {
    fs::write(dir.join("users.toml"), text.replace("HASHED", hashed())).unwrap();
}

fn policy(dir: &Path) -> Policy {
    Policy {
        users: dir.join("users.toml"),
        allow_anonymous: false,
        anonymous_role: "operator".into(),
    }
}

fn bench(users: &str, change: impl FnOnce(&mut Policy)) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), users);
    let mut policy = policy(dir.path());
    change(&mut policy);
    Bench { access: Access::open(policy, |_, _| ()).unwrap(), dir }
}

impl Bench {
    async fn come(
        &self,
        user: Option<&str>,
        password: Option<&str>,
        certificate: Option<&str>,
        address: &str,
    ) -> Result<Option<String>, Denied> {
        let (password, address) = (password.map(str::as_bytes), address.parse().unwrap());
        let admitted = self.access.admit(Claim { user, password, certificate, address }).await;
        admitted.map(|guest| guest.user.map(String::from))
    }
}

const USERS: &str = "[users.web1]\nrole = \"node\"\npassword = \"HASHED\"\n\
    [users.web2]\nrole = \"node\"\ncertificate = true\n\
    [users.web3]\nrole = \"node\"\ncertificate = true\npassword = \"HASHED\"\n";

#[tokio::test]
async fn a_name_is_believed_with_its_password_or_its_certificate_and_never_without() {
    let bench = bench(USERS, |_| ());
    let is = |name: &str| Ok(Some(name.to_owned()));
    for (user, password, certificate, expected) in [
        (Some("web1"), Some(PASSWORD), None, is("web1")),
        (Some("web1"), Some("wrong one"), None, Err(Denied::Wrong)),
        (Some("web1"), None, None, Err(Denied::Wrong)),
        (Some("web1"), None, Some("web1"), Err(Denied::Wrong)),
        (None, None, Some("web1"), Err(Denied::Anonymous)),
        (None, None, Some("web2"), is("web2")),
        (Some("web2"), None, Some("web2"), is("web2")),
        (Some("web1"), Some(PASSWORD), Some("web2"), is("web1")),
        (Some("web3"), Some(PASSWORD), None, is("web3")),
        (Some("web3"), None, Some("web3"), is("web3")),
        (None, None, Some("stranger"), Err(Denied::Anonymous)),
        (None, Some(PASSWORD), None, Err(Denied::Anonymous)),
    ] {
        bench.access.checks.forget(); // it is not guessing that is tested here
        let came = bench.come(user, password, certificate, THERE).await;
        assert_eq!(came, expected, "{user:?} {password:?} {certificate:?}");
    }
    bench.access.checks.forget();
    for (user, password, certificate) in [
        (Some("web2"), Some(PASSWORD), None),
        (Some("web2"), None, Some("web3")),
        (Some("web3"), Some("wrong one"), Some("web3")),
        (Some("nobody"), Some(PASSWORD), None),
    ] {
        let came = bench.come(user, password, certificate, HERE).await;
        assert_eq!(came, Err(Denied::Wrong), "{user:?} {certificate:?}: also on this machine");
    }
}

#[tokio::test]
async fn without_a_name_only_this_machine_comes_in_unless_it_is_said_otherwise() {
    let closed = bench(USERS, |_| ());
    for (address, comes) in [
        (HERE, true),
        ("::1", true),
        ("127.9.9.9", true),
        ("::ffff:127.0.0.1", true),
        (THERE, false),
        ("::ffff:192.0.2.7", false),
        ("2001:db8::1", false),
        ("0.0.0.0", false),
    ] {
        let came = closed.come(None, None, None, address).await;
        assert_eq!(came, if comes { Ok(None) } else { Err(Denied::Anonymous) }, "{address}");
    }
    let open = bench(USERS, |policy| policy.allow_anonymous = true);
    assert_eq!(open.come(None, None, None, THERE).await, Ok(None));
    assert_eq!(open.come(Some("web1"), Some("wrong one"), None, THERE).await, Err(Denied::Wrong));
    let none = bench(USERS, |policy| policy.anonymous_role = "none".into());
    assert_eq!(none.come(None, None, None, HERE).await, Err(Denied::Anonymous));
}

#[tokio::test]
async fn where_nobody_has_a_name_none_is_believed() {
    let bench = bench("", |_| ());
    assert_eq!(bench.come(Some("root"), Some("x"), None, HERE).await, Ok(None));
    assert_eq!(bench.come(Some("root"), Some("x"), None, THERE).await, Err(Denied::Anonymous));
}

#[test]
fn what_somebody_may_do_is_his_role_and_his_own_rules() {
    let text = "[roles.reader]\nsubscribe = [\"mesh/app/news/#\"]\n\
                [users.web1]\nrole = \"node\"\npublish = [\"mesh/app/%u\"]\n";
    let bench = bench(text, |policy| policy.anonymous_role = "reader".into());
    let web1 = Who { user: Some("web1"), client: "x" };
    assert!(bench.access.may_publish(web1, "mesh/nodes/web1/heartbeat"));
    assert!(bench.access.may_publish(web1, "mesh/app/web1"));
    assert!(!bench.access.may_publish(web1, "mesh/app/x"));
    let nobody = Who { user: None, client: "web1" };
    assert!(bench.access.may_subscribe(nobody, "mesh/app/news/today"));
    assert!(!bench.access.may_subscribe(nobody, "#"));
    assert!(!bench.access.may_publish(nobody, "mesh/nodes/web1/heartbeat"));
    let gone = Who { user: Some("web9"), client: "web1" };
    assert!(!bench.access.may_subscribe(gone, "mesh/app/news/today"), "who is unknown may nothing");
}

#[test]
fn answers_go_only_where_who_asked_could_write_or_has_his_own_place_for_them() {
    let bench = bench(USERS, |policy| policy.anonymous_role = "dashboard".into());
    let web1 = Who { user: Some("web1"), client: "web2" };
    assert!(bench.access.may_be_answered(web1, "mesh/app/replies/web1/7"));
    for topic in ["mesh/app/replies/web2/7", "mesh/app/config", "mesh/app/replies"] {
        assert!(!bench.access.may_be_answered(web1, topic), "{topic}");
    }
    let nobody = Who { user: None, client: "web1" };
    assert!(!bench.access.may_be_answered(nobody, "mesh/app/replies/web1/7"));
}

#[tokio::test]
async fn a_reading_takes_the_new_rules_ousts_who_changed_and_keeps_the_old_ones_if_it_fails() {
    let bench = bench(USERS, |_| ());
    let dir = bench.dir.path();
    assert_eq!(
        bench.come(Some("web1"), Some(PASSWORD), None, THERE).await.unwrap().unwrap(),
        "web1"
    );
    for broken in ["[users.web1]\nrole = \"nod\"", "not toml", "[users.x]\nrole = 1"] {
        write(dir, broken);
        let error = bench.access.reload().unwrap_err().to_string();
        assert!(error.contains("users.toml"), "{error}");
        assert!(bench.access.may_stay(Some("web1"), 0));
        assert!(bench.come(Some("web1"), Some(PASSWORD), None, THERE).await.is_ok());
    }
    write(dir, &USERS.replace("web1", "anna"));
    assert_eq!(bench.access.reload().unwrap(), "3 users, 1 ousted");
    assert!(!bench.access.may_stay(Some("web1"), 0) && bench.access.may_stay(Some("web3"), 0));
    assert!(bench.access.may_stay(Some("anna"), 0) && bench.access.may_stay(None, 0));
    let came = bench.come(Some("web1"), Some(PASSWORD), None, THERE).await;
    assert_eq!(came, Err(Denied::Wrong), "a password that was right is not remembered");
    let other = Hashed::make("another one").unwrap();
    write(dir, &USERS.replace("HASHED", other.as_str()));
    bench.access.reload().unwrap();
    assert!(!bench.access.may_stay(Some("web3"), 1), "his password is another");
    assert!(bench.access.may_stay(Some("web3"), 2), "he has come with the new one");
    assert!(bench.access.may_stay(Some("web2"), 0));
    let came = bench.come(Some("web3"), Some(PASSWORD), None, THERE).await;
    assert_eq!(came, Err(Denied::Wrong));
    write(dir, &USERS.replace("HASHED", other.as_str()).replace("node", "operator"));
    bench.access.reload().unwrap();
    assert!(bench.access.may_stay(Some("web3"), 2), "another role ends no connection");
    assert!(!bench.access.may_stay(Some("web3"), 1), "a later reading forgets nobody");
    assert!(!bench.access.may_stay(Some("web1"), 0));
    assert!(bench.access.may_publish(Who { user: Some("web3"), client: "" }, "mesh/app/x"));
}

#[test]
fn the_role_of_those_without_a_name_has_to_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let policy = Policy { anonymous_role: "guest".into(), ..policy(dir.path()) };
    let error = policy.look().unwrap_err().to_string();
    assert!(error.contains("bus.anonymous_role") && error.contains("operator"), "{error}");
    write(dir.path(), "[roles.guest]\n");
    assert_eq!(policy.look().unwrap(), 0);
}
