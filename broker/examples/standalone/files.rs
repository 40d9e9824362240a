//! Retained messages of the standalone broker as files, one a topic.
//!
//! Small and synchronous: for trying things out, not for a load. A file is replaced whole; what
//! cannot be read back at a start is left where it is and said on standard error.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use meshfs_broker::{Identity, MemoryStore, QoS, Retained, RetainedStore};

const MAGIC: &[u8] = b"retained 1\n";

/// Files in front of the memory they are read into.
#[derive(Debug)]
pub(crate) struct FileStore {
    folder: PathBuf,
    memory: MemoryStore,
}

impl FileStore {
    /// Opens a folder, making it if it is missing, and reads what is there.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let memory = MemoryStore::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            match fs::read(&path).map(|bytes| decode(&bytes)) {
                Ok(Some(message)) => memory.put(Arc::new(message)),
                Ok(None) => tracing::warn!(path = %path.display(), "not a retained message"),
                Err(error) => tracing::warn!(path = %path.display(), %error, "not read"),
            }
        }
        Ok(Self { folder: folder.to_owned(), memory })
    }

    /// A name of its own for every topic, however long: its 128 bit hash.
    fn path(&self, topic: &str) -> PathBuf {
        let fnv = |seed: u64| {
            topic.bytes().fold(seed, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(5)
            })
        };
        self.folder.join(format!("{:016x}{:016x}", fnv(0xcbf2_9ce4_8422_2325), fnv(0x9e37_79b9)))
    }
}

impl RetainedStore for FileStore {
    fn put(&self, message: Arc<Retained>) {
        let path = self.path(&message.topic);
        let scratch = path.with_extension("new");
        let written =
            fs::write(&scratch, encode(&message)).and_then(|()| fs::rename(&scratch, &path));
        if let Err(error) = written {
            tracing::error!(topic = %message.topic, %error, "not written");
        }
        self.memory.put(message);
    }

    fn remove(&self, topic: &str) {
        let removed = fs::remove_file(self.path(topic));
        if let Err(error) = removed.or_else(|e| match e.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(e),
        }) {
            tracing::error!(%topic, %error, "not removed");
        }
        self.memory.remove(topic);
    }

    fn matching(&self, filter: &str, found: &mut Vec<Arc<Retained>>) {
        self.memory.matching(filter, found);
    }
}

fn millis(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn encode(message: &Retained) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.push(message.qos as u8);
    out.extend(millis(message.received_at).to_be_bytes());
    out.extend(message.expires_at.map_or(0, millis).to_be_bytes());
    let user = message.by.user.as_deref();
    out.push(u8::from(user.is_some()));
    let (topic, client) = (message.topic.as_bytes(), message.by.client_id.as_bytes());
    let user = user.unwrap_or_default().as_bytes();
    for field in [topic, client, user, &message.properties, &message.payload] {
        out.extend((field.len() as u32).to_be_bytes());
        out.extend(field);
    }
    out
}

/// `None` for anything that [`encode`] did not write.
fn decode(bytes: &[u8]) -> Option<Retained> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let mut take = |count: usize| {
        let (field, after) = rest.split_at_checked(count)?;
        rest = after;
        Some(field)
    };
    let qos = match take(1)? {
        [0] => QoS::AtMostOnce,
        [1] => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    };
    let received_ms = u64::from_be_bytes(take(8)?.try_into().ok()?);
    let expires_ms = u64::from_be_bytes(take(8)?.try_into().ok()?);
    let has_user = take(1)? == [1];
    let mut field = || {
        let size = u32::from_be_bytes(take(4)?.try_into().ok()?);
        take(size as usize)
    };
    let (topic, client, user) = (field()?, field()?, field()?);
    let (properties, payload) = (field()?.to_vec(), field()?.to_vec());
    let text = |bytes| std::str::from_utf8(bytes).ok().map(Box::<str>::from);
    let by = Identity {
        client_id: text(client)?,
        user: if has_user { Some(text(user)?) } else { None },
        address: None,
        note: 0,
    };
    let at = |ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms));
    Some(Retained {
        topic: text(topic)?,
        payload: payload.into(),
        qos,
        properties: properties.into(),
        expires_at: if expires_ms > 0 { at(expires_ms) } else { None },
        received_at: at(received_ms)?,
        by: Arc::new(by),
    })
}
