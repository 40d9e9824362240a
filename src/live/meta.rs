//! What is kept beside a payload: an extended attribute of its file, so that it
//! survives restart, rename and snapshot and leaves the payload byte for byte.

use crate::name::By;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The extended attribute; `getfattr -n user.meshfs FILE` shows it.
pub(super) const ATTRIBUTE: &str = "user.meshfs";

/// Who published a retained message, when, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Who published it.
    pub by: By,
    /// When the hub received it; also the file's modification time.
    #[serde(with = "crate::clock::millis")]
    pub received_at: Timestamp,
    /// The quality of service it was published with: 0, 1 or 2.
    pub qos: u8,
    /// MQTT 5 content type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// MQTT 5 user properties.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub user_properties: Vec<(String, String)>,
    /// When it is to be forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// The attribute: the metadata and what tells a whole payload from a torn one.
#[derive(Debug, Serialize, Deserialize)]
struct Attribute {
    bytes: u64,
    crc32: u32,
    #[serde(flatten)]
    meta: Meta,
}

/// Why a file's metadata does not vouch for its payload.
#[derive(Debug, thiserror::Error)]
pub(super) enum Distrust {
    #[error("meshfs did not write it: it has no attribute {ATTRIBUTE}")]
    Foreign,
    #[error("its attribute {ATTRIBUTE} cannot be read")]
    Unreadable,
    #[error("it is torn: {found} bytes where {expected} were written")]
    Length { found: u64, expected: u64 },
    #[error("it is torn or was edited: its checksum is not that of what was written")]
    Checksum,
}

/// The attribute's value for a payload.
pub(super) fn seal(payload: &[u8], meta: &Meta) -> serde_json::Result<Vec<u8>> {
    let bytes = payload.len() as u64;
    let crc32 = crc32fast::hash(payload);
    serde_json::to_vec(&Attribute { bytes, crc32, meta: meta.clone() })
}

/// The metadata, if it vouches for the payload.
pub(super) fn unseal(attribute: &[u8], payload: &[u8]) -> Result<Meta, Distrust> {
    let sealed: Attribute = serde_json::from_slice(attribute).map_err(|_| Distrust::Unreadable)?;
    let found = payload.len() as u64;
    if found != sealed.bytes {
        return Err(Distrust::Length { found, expected: sealed.bytes });
    }
    if crc32fast::hash(payload) != sealed.crc32 {
        return Err(Distrust::Checksum);
    }
    Ok(sealed.meta)
}
