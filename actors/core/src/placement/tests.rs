use super::table::SlotTable;
use super::*;
use crate::LogKey;
use clarion_protocol::{ProductId, UserId};

/// What the documentation of the hash says, computed by hand.
#[test]
fn the_hash_is_fnv_1a_with_terminators_finished_by_split_mix_64() {
    // FNV-1a of "a" followed by 0xff.
    let a = (FNV_OFFSET ^ 0x61).wrapping_mul(FNV_PRIME);
    assert_eq!(a, 0xaf63_dc4c_8601_ec8c, "the published test vector of FNV-1a 64");
    let terminated = (a ^ 0xff).wrapping_mul(FNV_PRIME);
    assert_eq!(hash_of("a"), mix(terminated));
    assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf, "the first output of SplitMix64 seeded with 0");
}

#[test]
fn fields_do_not_run_into_each_other() {
    let slot = |product: &str, user: &str| {
        let product = ProductId::new(product).unwrap();
        slot_of(&LogKey::user(&product, &UserId::new(user).unwrap()))
    };
    assert_ne!(slot("ab", "c"), slot("a", "bc"));
}

#[test]
fn the_levels_of_a_member_are_a_permutation() {
    for member in ["a", "node-1", "10.0.0.1:7400", ""] {
        let levels = Slot::all().map(|slot| Slot(table::level(hash_of(member), slot)));
        assert_eq!(levels.collect::<SlotSet>(), SlotSet::full(), "{member}");
    }
}

/// The matching is what the documentation says it is: all pairs in the order of falling weight.
#[test]
fn the_table_is_that_of_the_greedy_rule() {
    for count in [1, 3, 20, 50] {
        let names: Vec<_> = (0..count).map(|node| format!("node-{node:02}")).collect();
        let table = SlotTable::new(names.iter().map(|name| name.as_str().into()));
        let mut pairs = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let hash = hash_of(name);
            pairs.extend(Slot::all().map(|slot| (table::weight(hash, slot), index, slot)));
        }
        pairs.sort_unstable_by(|one, other| other.cmp(one));
        let mut left = SlotSet::full();
        let mut load = vec![0; names.len()];
        for (_, index, slot) in pairs {
            if left.contains(slot) && load[index] < table.load_max() {
                left.remove(slot);
                load[index] += 1;
                assert!(table.owns(&names[index], slot), "{count} members, slot {slot}");
            }
        }
        assert!(left.is_empty());
    }
}
