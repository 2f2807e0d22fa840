//! What a node says of itself by gossip: a value under each of five keys. Facts never change while it
//! runs, marks and verdict do seldom, load often; each travels only when it changed. JSON, so that
//! releases can add fields: unknown ones are passed over, missing ones have defaults.

use std::net::SocketAddr;

use chitchat::NodeState;
use clarion_core::membership::Verdict;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::identity::BootId;

pub(super) const FACTS: &str = "facts";
pub(super) const MARKS: &str = "marks";
pub(super) const LOAD: &str = "load";
/// Whom the node holds in quarantine and whom not, as [`Verdict::judged`] writes it.
pub(super) const VERDICT: &str = "verdict";
/// To whom it never had a link, as [`Verdict::unlinked`] writes it.
pub(super) const UNLINKED: &str = "unlinked";

/// Most bytes of one value; what is longer is not read.
pub(super) const VALUE_BYTES_MAX: usize = 2_048;
/// Most bytes of a text among the facts.
const TEXT_BYTES_MAX: usize = 512;
/// Keys and bytes of one node's state above which somebody talks nonsense: room for what later
/// releases may add.
const KEYS_MAX: usize = 16;
const STATE_BYTES_MAX: usize = 16 * 1024;

/// What stays the same for one run of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    #[serde(with = "hex")]
    pub(super) boot: BootId,
    pub(super) group: String,
    /// Names with commas between; those that only later releases know are passed over.
    pub(super) roles: String,
    pub(super) peer_addr: SocketAddr,
    pub(super) version: String,
    pub(super) wire: (u16, u16),
    pub(super) placement_version: u16,
    #[serde(default)]
    pub(super) http_url: String,
    #[serde(default)]
    pub(super) terminals_url: Option<String>,
}

impl Facts {
    /// The first field that is too long, if any.
    pub(super) fn too_long(&self) -> Option<&'static str> {
        let url = self.terminals_url.as_deref().unwrap_or_default();
        let texts = [
            ("isolation group", self.group.as_str()),
            ("roles", &self.roles),
            ("version", &self.version),
            ("address of the HTTP API", &self.http_url),
            ("address for terminals", url),
        ];
        texts.into_iter().find(|(_, text)| text.len() > TEXT_BYTES_MAX).map(|(name, _)| name)
    }
}

/// A boot as its 16 hexadecimal digits.
mod hex {
    use clarion_core::BootId;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(
        boot: &BootId,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(boot)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BootId, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// What an operator or the node's health changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Marks {
    pub(super) draining: bool,
    pub(super) sick: bool,
    /// The node's last word: it stops now.
    pub(super) left: bool,
}

/// How busy a node is. Coarse: gossiped at most once a second, and only when it moved by a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    /// Links of terminals that are open.
    pub links: u64,
    /// Links it takes at most; 0 if it is no gateway.
    pub links_max: u64,
    /// Live sessions.
    pub sessions: u64,
    /// CPU in use, thousandths of all it may use.
    pub cpu_permille: u32,
}

impl Load {
    /// Whether others should hear of the change from `told` to `self`: the bound moved, links by
    /// 1 % of it, sessions by 5 %, CPU by 5 points, or something fell to or rose from nothing.
    pub(super) fn is_a_step_from(&self, told: &Self) -> bool {
        let moved = |now: u64, then: u64, step: u64| {
            now.abs_diff(then) >= step.max(1) || (now == 0) != (then == 0)
        };
        self.links_max != told.links_max
            || moved(self.links, told.links, self.links_max / 100)
            || moved(self.sessions, told.sessions, told.sessions / 20)
            || moved(self.cpu_permille.into(), told.cpu_permille.into(), 50)
    }
}

pub(super) fn read<T: DeserializeOwned>(state: &NodeState, key: &str) -> Option<T> {
    let text = state.get(key).filter(|text| text.len() <= VALUE_BYTES_MAX)?;
    serde_json::from_str(text).ok()
}

/// The facts of a node, if it has told them and they make sense.
pub(super) fn facts(state: &NodeState) -> Option<Facts> {
    read(state, FACTS).filter(|facts: &Facts| facts.too_long().is_none())
}

/// What a node thinks of the others; nothing where it makes no sense.
pub(super) fn verdict(state: &NodeState) -> Verdict {
    let under =
        |key| -> Verdict { state.get(key).and_then(|text| text.parse().ok()).unwrap_or_default() };
    under(VERDICT).with(under(UNLINKED))
}

/// The value to publish.
pub(super) fn text(value: &impl Serialize) -> String {
    // These types have no maps with odd keys and no failing `Serialize`.
    serde_json::to_string(value).unwrap_or_default()
}

/// Whether a node's state is larger than any honest one.
pub(super) fn is_swollen(state: &NodeState) -> bool {
    let mut bytes = 0;
    for (at, (key, value)) in state.key_values_including_deleted().enumerate() {
        bytes += key.len() + value.value.len();
        if at >= KEYS_MAX || bytes > STATE_BYTES_MAX {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Facts {
        Facts {
            boot: BootId(7),
            group: "default".into(),
            roles: "push,broker".into(),
            peer_addr: "10.0.0.1:7400".parse().unwrap(),
            version: "0.1.0".into(),
            wire: (1, 1),
            placement_version: 2,
            http_url: "http://10.0.0.1:8080".into(),
            terminals_url: None,
        }
    }

    #[test]
    fn the_words_of_gossip_are_those() {
        same(
            &text(&sample()),
            r#"{"boot":"0000000000000007","group":"default","roles":"push,broker","peer_addr":"10.0.0.1:7400","version":"0.1.0","wire":[1,1],"placement_version":2,"http_url":"http://10.0.0.1:8080","terminals_url":null}"#,
        );
        same(
            &text(&Marks { draining: true, ..Marks::default() }),
            r#"{"draining":true,"sick":false,"left":false}"#,
        );
        same(
            &text(&Load { links: 1, links_max: 2, sessions: 3, cpu_permille: 4 }),
            r#"{"links":1,"links_max":2,"sessions":3,"cpu_permille":4}"#,
        );
    }

    #[test]
    fn what_was_never_linked_is_told_beside_the_verdict_of_which_either_can_be_missing() {
        let (judged, unlinked) = ("+0000000000000001-0000000000000002", "?0000000000000003");
        let mut state = NodeState::for_test();
        state.set(VERDICT, judged);
        assert_eq!(
            (verdict(&state).judged().as_str(), verdict(&state).unlinked().as_str()),
            (judged, "")
        );
        state.set(UNLINKED, unlinked);
        assert_eq!(verdict(&state).judged(), judged);
        assert_eq!(verdict(&state).unlinked(), unlinked);
        state.set(UNLINKED, "nonsense");
        assert_eq!(verdict(&state).judged(), judged);
    }

    fn same(text: &str, expected: &str) {
        assert_eq!(text, expected, "neighbouring releases read this");
    }

    #[test]
    fn fields_of_other_releases_do_not_matter() {
        let mut state = NodeState::for_test();
        state.set(MARKS, r#"{"draining":true,"of a later release":1}"#);
        let marks: Marks = read(&state, MARKS).unwrap();
        assert!(marks.draining && !marks.sick);
    }

    #[test]
    fn what_is_too_long_is_not_read() {
        let mut state = NodeState::for_test();
        let long = Facts { version: "x".repeat(TEXT_BYTES_MAX + 1), ..sample() };
        state.set(FACTS, text(&long));
        assert_eq!(facts(&state), None);
        state.set(FACTS, text(&sample()));
        assert_eq!(facts(&state), Some(sample()));
        assert!(!is_swollen(&state));
        for key in 0..=KEYS_MAX {
            state.set(format!("k{key}"), "v");
        }
        assert!(is_swollen(&state));
        let mut state = NodeState::for_test();
        state.set("k", "v".repeat(STATE_BYTES_MAX));
        assert!(is_swollen(&state));
    }

    #[test]
    fn load_is_told_by_steps() {
        let told = Load { links: 1_000, links_max: 10_000, sessions: 1_000, cpu_permille: 300 };
        assert!(!Load { links: 1_099, ..told }.is_a_step_from(&told));
        assert!(Load { links: 1_100, ..told }.is_a_step_from(&told));
        assert!(!Load { sessions: 1_049, ..told }.is_a_step_from(&told));
        assert!(Load { sessions: 1_050, ..told }.is_a_step_from(&told));
        assert!(Load { cpu_permille: 350, ..told }.is_a_step_from(&told));
        assert!(Load { links: 0, ..told }.is_a_step_from(&told));
    }
}
