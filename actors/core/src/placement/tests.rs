use super::*;
use proptest::prelude::*;

fn product(name: &str) -> ProductId {
    ProductId::new(name).unwrap()
}

fn members(count: usize) -> Vec<Arc<str>> {
    (0..count).map(|node| Arc::from(format!("node-{node}"))).collect()
}

/// Nodes of neighbouring releases must agree: these values may change only with the version.
#[test]
fn the_hash_of_version_1_does_not_change() {
    assert_eq!(PLACEMENT_VERSION, 1);
    let shard = |name: &str| inbox_shard_of(&product("demo"), LogKind::Terminal, name, 4096);
    assert_eq!(["a", "b", "phone-1", "x".repeat(64).as_str()].map(shard), [3199, 3652, 1261, 2450]);
    assert_eq!(inbox_shard_of(&product("demo"), LogKind::User, "a", 4096), 2989);
    let (demo, news) = (product("demo"), TopicName::new("news").unwrap());
    let placed = [Placed::Product(&demo), Placed::Topic(&demo, &news), Placed::InboxShard(7)];
    let hashes = [0x1a84_22de_bbc8_b078, 0xc68c_eb55_c818_d594, 0x21e3_e6a8_fc51_1bb2];
    assert_eq!(placed.map(Placed::hash), hashes);
    let five = Placement::new(members(5));
    let owners = placed.map(|placed| five.owner(placed).unwrap().to_string());
    assert_eq!(owners, ["node-1", "node-4", "node-4"]);
}

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
    let shard = |product_name: &str, name: &str| {
        inbox_shard_of(&product(product_name), LogKind::User, name, u32::MAX)
    };
    assert_ne!(shard("ab", "c"), shard("a", "bc"));
}

#[test]
fn one_node_owns_everything_and_none_owns_nothing() {
    let one = Placement::new(members(1));
    assert_eq!(one.owner(Placed::InboxShard(9)).map(|owner| &**owner), Some("node-0"));
    let full = one.owner_with_room(Placed::InboxShard(9), |_| false);
    assert_eq!(full.map(|owner| &**owner), Some("node-0"), "somebody must");
    assert_eq!(Placement::new([]).owner(Placed::InboxShard(9)), None);
    assert_eq!(inbox_shard_of(&product("p"), LogKind::User, "u", 0), 0);
}

#[test]
fn shards_are_used_evenly() {
    let mut load = [0u32; 64];
    for terminal in 0..64_000 {
        let name = format!("t{terminal}");
        load[inbox_shard_of(&product("demo"), LogKind::Terminal, &name, 64) as usize] += 1;
    }
    assert!(load.iter().all(|load| (850..1150).contains(load)), "{load:?}");
}

#[test]
fn nodes_are_used_evenly() {
    let placement = Placement::new(members(8));
    let mut load = std::collections::BTreeMap::new();
    for shard in 0..4096 {
        *load.entry(placement.owner(Placed::InboxShard(shard)).unwrap()).or_insert(0) += 1;
    }
    assert!(load.values().all(|load| (420..610).contains(load)), "{load:?}");
}

proptest! {
    #[test]
    fn a_member_that_joins_takes_only_its_own(count in 1usize..12, shard in 0u32..4096) {
        let placed = Placed::InboxShard(shard);
        let (before, after) = (Placement::new(members(count)), Placement::new(members(count + 1)));
        let (old, new) = (before.owner(placed).unwrap(), after.owner(placed).unwrap());
        let joined = format!("node-{count}");
        prop_assert!(old == new || **new == *joined);
    }

    #[test]
    fn the_owner_is_the_first_in_order_that_has_room(
        count in 1usize..12,
        shard in 0u32..4096,
        full in proptest::collection::vec(any::<bool>(), 12),
    ) {
        let placement = Placement::new(members(count));
        let has_room = |name: &str| {
            let index: usize = name.strip_prefix("node-").unwrap().parse().unwrap();
            !full[index]
        };
        let placed = Placed::InboxShard(shard);
        let order = placement.order(placed);
        prop_assert_eq!(order.len(), count);
        let first = order.iter().find(|node| has_room(node)).unwrap_or(&order[0]);
        prop_assert_eq!(placement.owner_with_room(placed, has_room), Some(*first));
    }

    #[test]
    fn order_and_repetition_of_members_do_not_matter(
        shuffled in Just(members(9)).prop_shuffle(),
        shard in 0u32..4096,
    ) {
        let mut twice = shuffled.clone();
        twice.extend(shuffled);
        let (one, other) = (Placement::new(members(9)), Placement::new(twice));
        prop_assert_eq!(one.owner(Placed::InboxShard(shard)), other.owner(Placed::InboxShard(shard)));
    }

    #[test]
    fn a_shard_is_below_the_count(name in "[a-z]{1,64}", shards in 1u32..10_000) {
        prop_assert!(inbox_shard_of(&product("p"), LogKind::User, &name, shards) < shards);
    }
}
