use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// The server's memory, and a client's end of its queue.
struct Fixture(State);

struct Person(u64, mpsc::Receiver<String>);

impl Fixture {
    fn new() -> Self {
        Self::with(HouseLimits::default())
    }

    fn with(limits: HouseLimits) -> Self {
        let network = NetworkName::parse("house").unwrap();
        Self(State::new(&network, &Channel::parse("#mesh").unwrap(), limits))
    }

    fn connect(&mut self) -> Person {
        let (sender, lines) = mpsc::channel(self.0.limits.waiting_lines_max);
        Person(self.0.connect("localhost", sender), lines)
    }

    /// A registered client in the channel, its welcome read.
    fn person(&mut self, nick: &str) -> Person {
        let mut person = self.connect();
        for line in [&format!("NICK {nick}"), "USER u 0 * :Real Name", "JOIN #mesh"] {
            self.0.receive(person.0, line);
        }
        person.read();
        person
    }

    fn send(&mut self, from: &Person, line: &str) {
        self.0.receive(from.0, line);
    }

    /// Sends a line and gives what comes back to the same client.
    fn ask(&mut self, from: &mut Person, line: &str) -> String {
        from.read();
        self.send(from, line);
        from.read()
    }
}

impl Person {
    fn read(&mut self) -> String {
        let mut lines = Vec::new();
        while let Ok(line) = self.1.try_recv() {
            lines.push(line);
        }
        lines.join("\n")
    }
}

#[test]
fn a_client_is_welcomed_when_nick_user_and_cap_end_have_come() {
    let mut house = Fixture::new();
    let mut alice = house.connect();
    assert_eq!(house.ask(&mut alice, "CAP LS 302"), ":house.meshfs CAP * LS :");
    assert_eq!(house.ask(&mut alice, "NICK alice"), "");
    assert_eq!(house.ask(&mut alice, "USER alice 0 * :Alice"), "");
    let nak = house.ask(&mut alice, "CAP REQ :multi-prefix");
    assert_eq!(nak, ":house.meshfs CAP alice NAK :multi-prefix");
    let welcome = house.ask(&mut alice, "CAP END");
    for numeric in ["001", "002", "003", "004", "005", "375", "372", "376"] {
        assert!(
            welcome.contains(&format!(":house.meshfs {numeric} alice ")),
            "{numeric}: {welcome}"
        );
    }
    assert!(house.ask(&mut alice, "USER again 0 * :x").contains(" 462 "));
}

#[test]
fn a_nick_is_checked_and_belongs_to_one() {
    let mut house = Fixture::new();
    let mut alice = house.person("alice");
    let mut other = house.connect();
    assert!(house.ask(&mut other, "NICK ALICE").contains(" 433 * ALICE :"));
    assert!(house.ask(&mut other, "NICK 1bad").contains(" 432 * 1bad :"));
    assert!(house.ask(&mut other, "NICK").contains(" 431 "));
    assert!(house.ask(&mut other, "JOIN #mesh").contains(" 451 "));
    assert_eq!(house.ask(&mut alice, "NICK Alice"), ":alice!~u@localhost NICK :Alice");
    assert!(house.ask(&mut alice, "NICK carol").ends_with("NICK :carol"));
    assert_eq!(house.ask(&mut other, "NICK alice"), "");
}

#[test]
fn members_hear_each_other_and_nobody_else_does() {
    let mut house = Fixture::new();
    let (mut alice, mut bob) = (house.person("alice"), house.person("bob"));
    assert_eq!(alice.read(), ":bob!~u@localhost JOIN #mesh");
    house.send(&alice, "PRIVMSG #Mesh :hello there");
    assert_eq!(bob.read(), ":alice!~u@localhost PRIVMSG #Mesh :hello there");
    assert_eq!(alice.read(), "");
    house.send(&bob, "NOTICE alice psst");
    assert_eq!(alice.read(), ":bob!~u@localhost NOTICE alice :psst");
    assert_eq!(house.ask(&mut bob, "PART #mesh :bye"), ":bob!~u@localhost PART #mesh :bye");
    assert_eq!(alice.read(), ":bob!~u@localhost PART #mesh :bye");
    assert!(house.ask(&mut bob, "PRIVMSG #mesh :x").contains(" 404 "));
    assert!(house.ask(&mut bob, "PART #mesh").contains(" 442 "));
    assert_eq!(house.ask(&mut bob, "NOTICE nobody x"), "", "a NOTICE is never answered");
    assert!(house.ask(&mut bob, "PRIVMSG nobody x").contains(" 401 "));
    assert!(house.ask(&mut bob, "PRIVMSG #none :x").contains(" 403 "));
    assert_eq!(alice.read(), "");
}

#[test]
fn quitting_tells_the_neighbours_and_frees_the_nick() {
    let mut house = Fixture::new();
    let (mut alice, mut bob) = (house.person("alice"), house.person("bob"));
    alice.read();
    assert_eq!(house.ask(&mut bob, "QUIT :dinner"), "ERROR :Closing link: Quit: dinner");
    assert!(bob.1.is_closed());
    assert_eq!(alice.read(), ":bob!~u@localhost QUIT :Quit: dinner");
    house.person("bob");
}

#[test]
fn what_ordinary_clients_ask_is_answered() {
    let mut house = Fixture::new();
    let mut alice = house.person("alice");
    house.person("bob");
    for (question, answers) in [
        ("NAMES #mesh", &["353 alice = #mesh :alice bob", "366 alice #mesh :"][..]),
        ("WHO #mesh", &["352 alice #mesh ~u localhost house.meshfs bob H :0 Real Name", "315"]),
        ("WHO #mesh %tcuihsnfdar,152", &["352", "315"]),
        ("WHOIS bob", &["311 alice bob ~u localhost * :Real Name", "319 alice bob :#mesh", "318"]),
        ("WHOIS ghost", &["401 alice ghost", "318"]),
        ("MODE #mesh", &["324 alice #mesh +nt"]),
        ("MODE #mesh b", &["368"]),
        ("MODE #mesh +o alice", &["482"]),
        ("MODE alice +i", &["MODE alice :+i"]),
        ("MODE alice", &["221 alice +i"]),
        ("MODE bob +i", &["502"]),
        ("LIST", &["322 alice #mesh 2 :meshfs", "323"]),
        ("ISON bob ghost alice", &["303 alice :bob alice"]),
        ("USERHOST bob", &["302 alice :bob=+~u@localhost"]),
        ("TOPIC #mesh", &["332 alice #mesh :meshfs", "333"]),
        ("TOPIC #mesh :new one", &[":alice!~u@localhost TOPIC #mesh :new one"]),
        ("AWAY :lunch", &["306"]),
        ("AWAY", &["305"]),
        ("PING x", &["PONG house.meshfs :x"]),
        ("MOTD", &["375", "376"]),
        ("LUSERS", &["251 alice :There are 2 users"]),
        ("VERSION", &["351"]),
        ("WHOWAS bob", &["369"]),
        ("KICK #mesh bob", &["421 alice KICK"]),
        ("FROBNICATE now", &["421 alice FROBNICATE"]),
        ("PRIVMSG", &["461 alice PRIVMSG"]),
        ("JOIN mesh", &["403 alice mesh"]),
    ] {
        let told = house.ask(&mut alice, question);
        for answer in answers {
            assert!(told.contains(answer), "{question}: {answer} is not in\n{told}");
        }
    }
}

#[test]
fn a_slow_reader_is_disconnected_and_others_go_on() {
    let mut house = Fixture::with(HouseLimits { waiting_lines_max: 50, ..HouseLimits::default() });
    let (mut alice, slow) = (house.person("alice"), house.person("slow"));
    for n in 0..60 {
        house.send(&alice, &format!("PRIVMSG #mesh :{n}"));
    }
    assert!(slow.1.is_closed());
    assert!(alice.read().ends_with(":slow!~u@localhost QUIT :SendQ exceeded"));
    assert!(house.ask(&mut alice, "NAMES #mesh").contains("353 alice = #mesh :alice\n"));
}

#[test]
fn what_a_client_can_make_the_server_hold_is_bounded() {
    let limits = HouseLimits { channels_max: 4, channels_per_client: 3, ..HouseLimits::default() };
    let mut house = Fixture::with(limits);
    let (mut alice, mut bob) = (house.person("alice"), house.person("bob"));
    let told = house.ask(&mut alice, "JOIN #a,#b,#c");
    assert!(told.contains("405 alice #c"), "{told}");
    let told = house.ask(&mut bob, "JOIN #d,#e");
    assert!(told.contains("JOIN #d") && told.contains("405 bob #e"), "{told}");
    house.ask(&mut alice, "JOIN 0");
    house.ask(&mut bob, "JOIN 0");
    assert_eq!(house.0.rooms.keys().map(AsRef::as_ref).collect::<Vec<&str>>(), ["#mesh"]);
}

#[test]
fn a_relayed_line_fits_the_wire_and_stays_utf8() {
    let mut house = Fixture::new();
    let (alice, mut bob) = (house.person("alice"), house.person("bob"));
    house.send(&alice, &format!("PRIVMSG #mesh :{}", "é".repeat(240)));
    let line = bob.read();
    assert!(line.len() <= 510 && line.ends_with('é'), "{line}");
}

#[tokio::test]
async fn over_a_socket_a_client_is_served_slowed_and_told_of_the_end() {
    let address = "127.0.0.1:0".parse().unwrap();
    let (network, channel) =
        (NetworkName::parse("house").unwrap(), Channel::parse("#mesh").unwrap());
    let house = House::start(address, &network, &channel, HouseLimits::default()).await.unwrap();
    let again = House::start(house.address(), &network, &channel, HouseLimits::default()).await;
    assert!(again.unwrap_err().to_string().contains(&house.address().to_string()));

    let mut stream = TcpStream::connect(house.address()).await.unwrap();
    let long = "x".repeat(5_000);
    let hello = format!("NICK a\r\nUSER a 0 * :Ä\r\nPING {long}\r\nJOIN #mesh\r\n");
    stream.write_all(hello.as_bytes()).await.unwrap();
    let pings: String = (0..60).map(|n| format!("PING {n}\r\n")).collect();
    stream.write_all(pings.as_bytes()).await.unwrap();
    let mut told = String::new();
    while !told.contains("PONG house.meshfs :59\r\n") {
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).await.unwrap();
        assert_ne!(count, 0, "{told}");
        told.push_str(std::str::from_utf8(&chunk[..count]).unwrap());
    }
    for n in 0..60 {
        assert!(told.contains(&format!(" :{n}\r\n")), "{n}");
    }
    assert!(told.contains(" 417 a :") && told.contains("366 a #mesh"), "{told}");
    house.shutdown(Duration::from_secs(5)).await;
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "ERROR :Closing link: the hub stops\r\n");
}

/// A server and one raw connection to it, on paused time.
async fn connected(limits: HouseLimits) -> (House, TcpStream) {
    let (network, channel) =
        (NetworkName::parse("house").unwrap(), Channel::parse("#mesh").unwrap());
    let house =
        House::start("127.0.0.1:0".parse().unwrap(), &network, &channel, limits).await.unwrap();
    let stream = TcpStream::connect(house.address()).await.unwrap();
    (house, stream)
}

#[tokio::test(start_paused = true)]
async fn who_does_not_register_or_answer_is_disconnected() {
    let (_house, mut stream) = connected(HouseLimits::default()).await;
    let mut told = String::new();
    stream.read_to_string(&mut told).await.unwrap();
    assert_eq!(told, "ERROR :Closing link: Registration timed out\r\n");

    let (_house, mut stream) = connected(HouseLimits::default()).await;
    stream.write_all(b"NICK a\r\nUSER a 0 * :a\r\n").await.unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).await.unwrap();
    assert!(told.contains(" 376 a "), "{told}");
    assert!(
        told.ends_with("PING :house.meshfs\r\nERROR :Closing link: Ping timeout\r\n"),
        "{told}"
    );
}

#[tokio::test]
async fn one_client_too_many_is_refused() {
    let (house, mut first) =
        connected(HouseLimits { clients_max: 1, ..HouseLimits::default() }).await;
    first.write_all(b"NICK a\r\nUSER a 0 * :a\r\n").await.unwrap();
    assert_ne!(first.read(&mut [0; 512]).await.unwrap(), 0);
    let mut second = TcpStream::connect(house.address()).await.unwrap();
    assert_eq!(second.read(&mut [0; 512]).await.unwrap_or(0), 0);
}

impl State {
    /// The invariants of the state, whatever clients did.
    fn check(&self) {
        for (nick, id) in &self.nicks {
            let owner = self.clients[id].nick.as_deref();
            assert_eq!(owner.map(state::fold).as_ref(), Some(nick));
        }
        for (id, client) in &self.clients {
            assert!(client.nick.as_ref().is_none_or(|nick| self.nicks[&state::fold(nick)] == *id));
            assert!(client.channels.iter().all(|room| self.rooms[room].members.contains(id)));
            assert!(client.channels.len() <= self.limits.channels_per_client);
        }
        for (folded, room) in &self.rooms {
            assert!(room.permanent || !room.members.is_empty());
            assert!(room.members.iter().all(|id| self.clients[id].channels.contains(folded)));
        }
        assert!(self.rooms.len() <= self.limits.channels_max);
    }
}

/// A line a client may send: commands with parameters that often mean something.
fn any_line() -> impl Strategy<Value = String> {
    let verbs = "NICK USER JOIN PART PRIVMSG NOTICE TOPIC NAMES WHO WHOIS MODE LIST AWAY ISON \
                 USERHOST QUIT CAP PING PASS MOTD KICK INVITE X";
    let params = "#a #b #mesh #A,#b alice Alice bob 0 * b +i -i +o LS REQ END :two\u{a0}words : :é";
    let select =
        |words: &'static str| proptest::sample::select(words.split(' ').collect::<Vec<_>>());
    let verbs = select(verbs).prop_map(str::to_owned);
    let param = prop_oneof![9 => select(params).prop_map(str::to_owned), 1 => "[!-~é]{1,400}"];
    (verbs, proptest::collection::vec(param, 0..5))
        .prop_map(|(verb, params)| [vec![verb], params].concat().join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_clients_send_the_state_holds_together(
        lines in proptest::collection::vec((0_usize..4, any_line()), 0..120)
    ) {
        let mut house = Fixture::with(HouseLimits {
            waiting_lines_max: 60, // full now and then, so that clients are dropped in the middle
            channels_max: 3,
            ..HouseLimits::default()
        });
        let mut people: Vec<Person> = ["alice", "bob", "c"].iter().map(|n| house.person(n)).collect();
        people.push(house.connect());
        for (who, line) in lines {
            house.send(&people[who], &line);
            house.0.check();
            if who == 0 {
                people[0].read().lines().for_each(|line| assert!(line.len() <= 510, "{line}"));
            }
        }
    }
}
