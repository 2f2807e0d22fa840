//! Where a tag lives: Redis Cluster's hash slots, used in every mode.

/// Hash slots of Redis Cluster.
pub(super) const SLOTS: u16 = 16_384;

/// Records that every shard must have are written under this many tags, spread over the slots.
pub(super) const ANCHORS: u16 = 256;

const TABLE: [u16; 256] = {
    let mut table = [0u16; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// The hash slot of a tag (what stands between the braces of a key): CRC16/XMODEM.
pub(super) fn slot_of(tag: &[u8]) -> u16 {
    let crc =
        tag.iter().fold(0u16, |crc, byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)]);
    crc % SLOTS
}

/// The shard of a slot when `shards` servers divide the slots evenly among them.
pub(super) fn divided(slot: u16, shards: usize) -> usize {
    usize::from(slot) * shards / usize::from(SLOTS)
}

/// The anchor tags in the order of their slots: one in every 64 slots, the same for ever.
pub(super) fn anchors() -> impl Iterator<Item = (u16, String)> {
    let width = SLOTS / ANCHORS;
    (0..ANCHORS).filter_map(move |part| {
        (0u32..u32::MAX).find_map(|number| {
            let tag = format!("@{part}.{number}");
            let slot = slot_of(tag.as_bytes());
            (slot / width == part).then_some((slot, tag))
        })
    })
}

/// A tag whose slot is one of those.
pub(super) fn tag_in(owns: impl Fn(u16) -> bool) -> Option<String> {
    let tags = (0..1_000_000u32).map(|number| format!("@f.{number}"));
    (0..SLOTS).any(&owns).then_some(())?;
    tags.into_iter().find(|tag| owns(slot_of(tag.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        assert_eq!(slot_of(b"123456789"), 0x31c3);
        assert_eq!(slot_of(b"foo"), 12_182);
        assert_eq!(slot_of(b""), 0);
    }

    #[test]
    fn there_is_an_anchor_in_every_64_slots() {
        let anchors: Vec<_> = anchors().collect();
        assert_eq!(anchors.len(), usize::from(ANCHORS));
        for (part, (slot, tag)) in anchors.iter().enumerate() {
            assert_eq!(usize::from(slot / 64), part);
            assert_eq!(slot_of(tag.as_bytes()), *slot);
        }
        assert_eq!(anchors[0].1, "@0.341", "anchors are part of where data is: never change them");
    }

    #[test]
    fn slots_are_divided_evenly() {
        assert_eq!(divided(0, 3), 0);
        assert_eq!(divided(SLOTS - 1, 3), 2);
        assert_eq!(divided(SLOTS - 1, 1), 0);
    }
}
