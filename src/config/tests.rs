use super::*;

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("meshfs.toml");
    std::fs::write(&file, text).unwrap();
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Config::load(Some(&file), environment, &[])
}

#[test]
fn the_defaults_are_a_whole_configuration() {
    let config = load("", &[]).unwrap();
    assert_eq!(config.bus.listen.to_string(), "127.0.0.1:1883");
    assert_eq!(config.snapshot.dataset, None);
    assert_eq!(config.irc.embedded.channel.as_str(), "#mesh");
    assert_eq!(config.announce.deadline, Duration::from_secs(30));
}

#[test]
fn the_environment_wins_over_the_file_and_flags_over_both() {
    let file = "root = \"/from/file\"\n[bus]\nlisten = \"127.0.0.1:1\"";
    let environment = [("MESHFS__ROOT", "/from/env"), ("MESHFS__IRC__EMBEDDED__LISTEN", "[::1]:0")];
    let config = load(file, &environment).unwrap();
    assert_eq!(config.root, Path::new("/from/env"));
    assert_eq!(config.irc.embedded.listen.to_string(), "[::1]:0");
    assert_eq!(config.bus.listen.port(), 1);
    let flags = [("root", "/from/flag".to_owned())];
    let config = Config::load(None, [("MESHFS__ROOT".into(), "/env".into())], &flags).unwrap();
    assert_eq!(config.root, Path::new("/from/flag"));
}

#[test]
fn a_list_of_filters_can_be_one_text_with_commas() {
    let filters = |config: Config| -> Vec<String> {
        config.bus.durable.iter().map(ToString::to_string).collect()
    };
    let default = ["mesh/nodes/+/presence", "mesh/snapshots/+", "mesh/announce"];
    assert_eq!(filters(load("", &[]).unwrap()), default);
    let environment = [("MESHFS__BUS__DURABLE", "mesh/hub, mesh/app/#")];
    assert_eq!(filters(load("", &environment).unwrap()), ["mesh/hub", "mesh/app/#"]);
    assert!(filters(load("[bus]\ndurable = []", &[]).unwrap()).is_empty());
    assert!(filters(load("", &[("MESHFS__BUS__DURABLE", "")]).unwrap()).is_empty());
}

#[test]
fn numbers_and_durations_come_from_the_environment_too() {
    let environment =
        [("MESHFS__ANNOUNCE__DEADLINE", "2s"), ("MESHFS__BUS__PACKET_MAX_BYTES", "2048")];
    let config = load("", &environment).unwrap();
    assert_eq!(config.announce.deadline, Duration::from_secs(2));
    assert_eq!(config.bus.packet_max_bytes, 2048);
}

#[test]
fn a_fault_names_the_key_and_the_reason() {
    for (text, named) in [
        ("roots = 1", &["roots"][..]),
        ("[bus]\nlisten = \"nowhere\"", &["bus.listen", "meshfs.toml"]),
        ("[bus]\nlisten = \"0.0.0.0:1883\"", &["bus.listen", "loopback"]),
        ("[http]\nlisten = \"192.168.1.1:80\"", &["http.listen", "loopback"]),
        ("[bus]\nlisten = \"[::]:1883\"", &["bus.listen", "user add", "allow_anonymous"]),
        ("[bus]\nallow_anonymous = \"maybe\"", &["bus.allow_anonymous"]),
        ("[bus]\nanonymous_role = \"guest\"", &["bus.anonymous_role", "guest", "operator"]),
        ("[bus]\nmode = \"external\"", &["bus.external.url", "mqtt://"]),
        ("[bus]\nmode = \"other\"", &["other", "embedded", "external"]),
        ("[bus]\nport = 1", &["port"]),
        ("[bus]\ndurable = [\"mesh/a+\"]", &["bus.durable", "wildcard"]),
        ("[bus]\ndurable = \"mesh/hub, elsewhere\"", &["bus.durable", "elsewhere"]),
        ("[bus]\nsync_within = \"1ms\"", &["bus.sync_within", "10ms"]),
        ("[announce]\ndeadline = \"soon\"", &["announce.deadline"]),
        ("[announce]\ndeadline = \"0s\"", &["announce.deadline", "100ms"]),
        ("[snapshot]\nengine = \"tar\"", &["tar", "zfs"]),
        ("[snapshot]\ndataset = \"-rf\"", &["snapshot.dataset"]),
        ("[nodes]\nlate_after = \"3m\"", &["nodes.lost_after"]),
        (
            "[[irc.networks]]\nname = \"x\"\nserver = \"y\"\nnick = \"z\"\nchannels = [\"#m\"]",
            &["host:port"],
        ),
        (
            "[[irc.networks]]\nname = \"x\"\nserver = \"y:1\"\nnick = \"z\"\nchannels = [\"m m\"]",
            &["channels"],
        ),
        ("not toml", &["meshfs.toml"]),
    ] {
        let error = load(text, &[]).expect_err(text).to_string();
        for word in named {
            assert!(error.contains(word), "{text:?} gives {error:?}, which lacks {word:?}");
        }
    }
    let error = Config::load(Some(Path::new("/nowhere.toml")), [], &[]).unwrap_err().to_string();
    assert!(error.contains("/nowhere.toml"), "{error}");
}

#[test]
fn tls_needs_certificate_and_key_and_a_required_client_certificate_its_ca() {
    let refused = |text: &str| load(text, &[]).unwrap_err().to_string();
    let files = "certificate = \"c.pem\"\nkey = \"k.pem\"\n";
    for (text, key) in [
        ("[bus.tls]\nlisten = \"127.0.0.1:0\"".to_owned(), "bus.tls.certificate"),
        ("[http.tls]\nlisten = \"127.0.0.1:0\"".to_owned(), "bus.tls.certificate"),
        ("[bus.tls]\nlisten = \"[::1]:0\"\ncertificate = \"c.pem\"".to_owned(), "bus.tls.key"),
        (format!("[bus.tls]\n{files}listen = \"0.0.0.0:0\""), "bus.tls.listen"),
        (format!("[bus.tls]\n{files}[http.tls]\nlisten = \"[::]:0\""), "http.tls.listen"),
        ("[bus.tls]\nclient_certificate = \"required\"".into(), "bus.tls.client_certificate"),
    ] {
        assert!(refused(&text).starts_with(&format!("{key} = ")), "{text}: {}", refused(&text));
    }
    let error = refused("[bus.tls]\nclient_certificate = \"maybe\"");
    assert!(error.contains("neither \"optional\" nor \"required\""), "{error}");
    assert!(refused("[bus.tls]\nlisten = \"8883\"").contains("bus.tls.listen"));
    assert!(!load("", &[]).unwrap().uses_tls());
    let required = "client_ca = \"ca.pem\"\nclient_certificate = \"required\"\n";
    load(&format!("[bus.tls]\n{files}{required}listen = \"0.0.0.0:8883\""), &[]).unwrap();
}

#[test]
fn an_address_that_others_reach_wants_users_or_a_word_that_none_are_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users.toml");
    let open = |more: &str| {
        let path = users.display();
        let bus = format!("listen = \"0.0.0.0:1883\"\nusers = \"{path}\"\n{more}");
        load(&format!("[bus]\n{bus}\n[http]\nlisten = \"[::]:80\""), &[])
    };
    open("").unwrap_err();
    open("allow_anonymous = true").unwrap();
    std::fs::write(&users, "[roles.x]\n").unwrap();
    open("").unwrap_err();
    std::fs::write(&users, "[users.anna]\nrole = \"node\"\n").unwrap();
    open("").unwrap();
    std::fs::write(&users, "[users.anna]\nrole = \"nod\"\n").unwrap();
    let error = open("").unwrap_err().to_string();
    for word in ["bus.users", "users.toml", "users.anna.role", "nod"] {
        assert!(error.contains(word), "{error}");
    }
    Config::read(None, [("MESHFS__BUS__USERS".into(), users.display().to_string())], &[]).unwrap();
}
