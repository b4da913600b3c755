//! Where a partition stands, as the offset commit's metadata carries it to the next owner.

use serde::{Deserialize, Serialize};

use crate::ticket::{Chain, Mark};

/// Everything that the meaning of the next record depends on, but for the window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// The next record to be read.
    #[serde(rename = "o")]
    pub(super) offset: i64,
    /// The chain as its last record left it; `None` before the first: then the next record is taken at its word.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub(super) chain: Option<Chain>,
    /// The last mark.
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    pub(super) mark: Option<Mark>,
    /// Start of the first slice that a window may still use.
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    pub(super) floor_ms: Option<i64>,
    /// Version of the baseline in force.
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<u64>,
    /// Whether the last mark and the version are known from the log's own beginning, so that the next mark can be held to them.
    #[serde(rename = "k", default)]
    pub(super) is_known: bool,
    /// Whether the chain is another spec's: its tickets cannot be read.
    #[serde(rename = "x", default)]
    pub(super) is_foreign: bool,
    /// Whether the last record was no good: of several in a row only the first is an alert.
    #[serde(rename = "b", default)]
    pub(super) is_broken: bool,
    /// Windows of marks before this time lack tickets that the log no longer has; `i64::MAX` until the first mark.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub(super) short_until_ms: Option<i64>,
}

/// What was written to one derived topic: how many outputs of the partition stand at or after an offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bound {
    /// The offset.
    #[serde(rename = "o")]
    pub(super) offset: i64,
    /// Outputs of this partition there, as far as they come from input before the committed offset.
    #[serde(rename = "n")]
    pub(super) outputs: u64,
}

/// The metadata of an offset commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Metadata {
    /// Fingerprint of the spec: what another spec left is no use.
    #[serde(rename = "s")]
    pub(super) fingerprint: String,
    /// From here the log has to be read to have the window again.
    #[serde(rename = "r")]
    pub(super) restore: Place,
    /// The committed place.
    #[serde(rename = "p")]
    pub(super) place: Place,
    /// The derived topics, in the order of [`super::outputs::Output::ALL`].
    #[serde(rename = "w")]
    pub(super) written: [Bound; 3],
}

impl Metadata {
    /// Bytes that a broker takes.
    const MOST: usize = 4_096;

    /// Returns the text, or `None` when it is longer than a broker takes (a chain id of thousands of bytes).
    pub(super) fn to_text(&self) -> Option<String> {
        let text = serde_json::to_string(self).expect("places have only numbers and texts");
        (text.len() <= Self::MOST).then_some(text)
    }

    pub(super) fn from_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_comes_back_from_a_commit_and_is_small() {
        let place = Place {
            offset: i64::MAX,
            chain: Some(Chain::begin(&"c".repeat(64))),
            mark: Some(Mark { number: u64::MAX, end_ms: i64::MAX, partitions: u32::MAX, baseline: Some(u64::MAX) }),
            floor_ms: Some(i64::MAX),
            version: Some(u64::MAX),
            is_known: true,
            is_foreign: true,
            is_broken: true,
            short_until_ms: Some(i64::MAX),
        };
        let bound = Bound { offset: i64::MAX, outputs: u64::MAX };
        let metadata = Metadata { fingerprint: "f".repeat(16), restore: place.clone(), place, written: [bound; 3] };
        let text = metadata.to_text().unwrap();
        assert!(text.len() < 1_500, "{} bytes", text.len());
        assert_eq!(Metadata::from_text(&text), Some(metadata));
        assert_eq!(Metadata::from_text(""), None);
    }
}
