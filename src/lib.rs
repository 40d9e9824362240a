//! meshfs keeps the last known state of a mesh on disk, and snapshots it before
//! anybody does something risky.
//!
//! The rooms, in the order in which data visits them. A heartbeat: `bus` hands
//! topic and bytes to the door (`hub`), `message` reads them, `mesh` decides,
//! `disk` writes one file of the `live` store. An announcement goes the same
//! way; `disk` then has a `snapshot` taken, writes it into the `journal` and
//! publishes the outcome, which comes in by the same door as everything else
//! and goes out to `bridge` (IRC), `http` and whoever waits for an answer.
//!
//! Who may import whom, how long a file may be, and that `topics.md` and
//! `config/meshfs.toml` tell the truth, is in `tests/architecture.rs`.

/// Checked names: topics, nodes, datasets, channels. In: text. Out: proof that it is one.
pub mod name;

/// The wall clock and a steady one, read once and handed to pure code.
pub mod clock;

/// Who may come in, and what each may do. In: names, passwords, topics. Out: yes or no.
pub mod access;

/// TOML, environment and flags to one checked configuration.
pub mod config;

/// Room 1. In: MQTT. Out: messages with their sender, at the door. And the way to say something.
pub mod bus;

/// Room 2. In: topic and bytes. Out: what they mean, or why they are refused.
pub mod message;

/// Room 3. In: what happened, and the time. Out: what is to be done. No I/O.
pub mod mesh;

/// Room 4. In: retained messages. Out: files that are whole or not there, and back.
pub mod live;

/// Room 5. In: a name and a reason. Out: a snapshot by zfs or copy, in time, or an error.
pub mod snapshot;

/// The append-only record.
pub mod journal;

/// The worker behind rooms 4 and 5 and the journal, which keeps their order.
pub mod disk;

/// Room 6. In: what IRC is to be told, and what people say there. Out: both ways.
pub mod bridge;

/// Room 7. In: requests. Out: publishes, and answers read from the view.
pub mod http;

/// How the rooms are joined: build, open ports, spawn, decide, shut down.
pub mod hub;

/// Room 8. The command line.
pub mod cli;
