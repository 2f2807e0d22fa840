use super::*;

const QUARANTINE_MS: u64 = 10_000;
const MINUTE_MS: u64 = 60_000;

/// The boot is the first letter of the name.
fn seen(id: &str) -> Seen {
    Seen {
        id: Arc::from(id),
        boot: BootId(id.as_bytes()[0].into()),
        roles: Roles::ALL,
        group: Arc::from("default"),
        placement_version: 2,
        draining: false,
        sick: false,
        alive: true,
        linked: Link::Up,
        verdict: Verdict::default(),
    }
}

fn sick(one: Seen) -> Seen {
    Seen { sick: true, ..one }
}

fn draining(one: Seen) -> Seen {
    Seen { draining: true, ..one }
}

fn boot(one: Seen, boot: u64) -> Seen {
    Seen { boot: BootId(boot), ..one }
}

/// Node `a`, which has seen `b` and `c` for a minute.
fn settled() -> Members {
    let mut members = Members::new(Arc::from("a"), QUARANTINE_MS);
    members.observe(0, vec![seen("a"), seen("b"), seen("c")]);
    members.observe(MINUTE_MS, vec![seen("a"), seen("b"), seen("c")]);
    members
}

/// What `a` thinks of `b`.
fn why(members: &mut Members, now_ms: u64, seen: Vec<Seen>) -> Why {
    members.observe(now_ms, seen)["b"].why
}

fn owners(members: &Members) -> Vec<&str> {
    members.owners().get("default").into_iter().flatten().map(|id| &**id).collect()
}

#[test]
fn whoever_is_seen_for_the_first_time_owns_at_once() {
    let mut members = Members::new(Arc::from("a"), QUARANTINE_MS);
    assert_eq!(members.placement_version(), None);
    members.observe(0, vec![seen("a"), seen("b")]);
    assert_eq!(owners(&members), ["a", "b"]);
    members.observe(MINUTE_MS, vec![seen("a"), seen("b"), seen("c")]);
    assert_eq!(owners(&members), ["a", "b", "c"]);
    assert_eq!(members.tables()["default"].members().count(), 3);
    assert_eq!(members.placement_version(), Some(2));
}

#[test]
fn one_that_died_and_comes_back_owns_nothing_until_it_was_stable() {
    let mut members = settled();
    members.observe(61_000, vec![seen("a"), seen("c")]);
    assert_eq!(owners(&members), ["a", "c"]);
    assert!(!members.standings().contains_key("b"));
    let back = || vec![seen("a"), seen("b"), seen("c")];
    assert_eq!(why(&mut members, 62_000, back()), Why::Quarantined);
    let standing = members.standings()["b"];
    assert_eq!((standing.quarantined_until_ms, standing.flaps), (Some(72_000), 1));
    assert!(standing.reachable && !standing.owns);
    assert_eq!(members.next_ms(), Some(72_000));
    assert_eq!(why(&mut members, 71_999, back()), Why::Quarantined);
    assert_eq!(why(&mut members, 72_000, back()), Why::Fit);
    assert_eq!(members.next_ms(), None);
    assert_eq!(members.standings()["b"].quarantined_until_ms, None);
}

#[test]
fn dead_by_gossip_and_missing_are_the_same() {
    let mut members = settled();
    let dead = Seen { alive: false, ..seen("b") };
    assert_eq!(why(&mut members, 61_000, vec![seen("a"), dead, seen("c")]), Why::Dead);
    assert_eq!(owners(&members), ["a", "c"]);
    let back = vec![seen("a"), seen("b"), seen("c")];
    assert_eq!(why(&mut members, 62_000, back), Why::Quarantined);
}

#[test]
fn another_boot_is_another_life_even_if_no_death_was_seen() {
    let mut members = settled();
    let restarted = || vec![seen("a"), boot(seen("b"), 2), seen("c")];
    assert_eq!(why(&mut members, 61_000, restarted()), Why::Quarantined);
    assert_eq!(why(&mut members, 71_000, restarted()), Why::Fit);
}

#[test]
fn a_restart_after_draining_is_no_flap() {
    let mut members = settled();
    let drained = vec![seen("a"), draining(seen("b")), seen("c")];
    assert_eq!(why(&mut members, 61_000, drained), Why::Draining);
    members.observe(62_000, vec![seen("a"), seen("c")]);
    let back = || vec![seen("a"), boot(seen("b"), 2), seen("c")];
    assert_eq!(why(&mut members, 63_000, back()), Why::Fit);
    assert_eq!(members.standings()["b"].flaps, 0);
    // The new life has not drained: its end is a flap.
    members.observe(64_000, vec![seen("a"), seen("c")]);
    assert_eq!(why(&mut members, 65_000, back()), Why::Quarantined);
}

#[test]
fn draining_that_is_called_off_is_no_flap() {
    let mut members = settled();
    members.observe(61_000, vec![seen("a"), draining(seen("b")), seen("c")]);
    let stays = vec![seen("a"), seen("b"), seen("c")];
    assert_eq!(why(&mut members, 62_000, stays), Why::Fit);
}

#[test]
fn draining_does_not_shorten_a_quarantine() {
    let mut members = settled();
    members.observe(61_000, vec![seen("a"), boot(seen("b"), 2), seen("c")]);
    members.observe(62_000, vec![seen("a"), draining(boot(seen("b"), 2)), seen("c")]);
    let back = || vec![seen("a"), boot(seen("b"), 3), seen("c")];
    assert_eq!(why(&mut members, 63_000, back()), Why::Quarantined);
    assert_eq!(why(&mut members, 71_000, back()), Why::Fit);
    assert_eq!(members.standings()["b"].flaps, 1);
}

#[test]
fn the_quarantine_doubles_up_to_sixteen_times() {
    let mut members = settled();
    let mut now_ms = MINUTE_MS;
    for (life, factor) in (2..).zip([1, 2, 4, 8, 16, 16, 16]) {
        now_ms += 1_000;
        members.observe(now_ms, vec![seen("a"), boot(seen("b"), life), seen("c")]);
        let until_ms = members.standings()["b"].quarantined_until_ms;
        assert_eq!(until_ms, Some(now_ms + factor * QUARANTINE_MS), "life {life}");
    }
}

#[test]
fn flaps_are_forgotten_after_ten_minutes_without_one() {
    let mut members = settled();
    let life = |life| vec![seen("a"), boot(seen("b"), life), seen("c")];
    members.observe(100_000, life(2));
    members.observe(110_000, life(3));
    assert_eq!(members.standings()["b"].flaps, 2);
    members.observe(709_999, life(3));
    assert_eq!(members.standings()["b"].flaps, 2);
    members.observe(710_000, life(3));
    assert_eq!(members.standings()["b"].flaps, 0);
    members.observe(720_000, life(4));
    assert_eq!(members.standings()["b"].quarantined_until_ms, Some(730_000));
}

#[test]
fn a_refused_link_is_death_at_once_and_a_broken_one_is_not() {
    let mut members = settled();
    let linked = |linked| vec![seen("a"), Seen { linked, ..seen("b") }, seen("c")];
    assert_eq!(why(&mut members, 61_000, linked(Link::Down)), Why::Fit);
    assert!(!members.standings()["b"].reachable, "pushes go to the next in order");
    assert_eq!(why(&mut members, 62_000, linked(Link::Refused)), Why::Dead);
    assert_eq!(owners(&members), ["a", "c"]);
    assert_eq!(why(&mut members, 63_000, linked(Link::Down)), Why::Quarantined);
    assert_eq!(why(&mut members, 73_000, linked(Link::Up)), Why::Fit);
    assert!(members.standings()["b"].reachable);
}

fn unlinked(one: Seen) -> Seen {
    Seen { linked: Link::Down, ..one }
}

#[test]
fn one_that_most_of_its_peers_never_had_a_link_to_owns_nothing() {
    let told: Verdict = "+0000000000000061?0000000000000062".parse().unwrap();
    let c = || Seen { verdict: told.clone(), ..seen("c") };
    let mut members = Members::new(Arc::from("a"), QUARANTINE_MS);
    let all = || vec![seen("a"), unlinked(seen("b")), seen("c")];
    assert_eq!(why(&mut members, 0, all()), Why::Fit, "links take a moment");
    assert_eq!(why(&mut members, 9_999, all()), Why::Fit);
    assert_eq!(members.next_ms(), Some(10_000));
    assert_eq!(why(&mut members, 10_000, all()), Why::Fit, "others may reach it");
    let held = members.verdict(10_000);
    assert_eq!(held.judged(), "+0000000000000063", "older releases read this alone");
    assert_eq!(held.unlinked(), "?0000000000000062");
    let all = |b| vec![seen("a"), b, c()];
    assert_eq!(why(&mut members, 11_000, all(unlinked(seen("b")))), Why::NeverLinked);
    assert_eq!(owners(&members), ["a", "c"]);
    // One link that comes up is enough, as long as others are not most; one that ends later changes
    // nothing.
    assert_eq!(why(&mut members, 12_000, all(seen("b"))), Why::Fit);
    assert_eq!(why(&mut members, 60_000, all(unlinked(seen("b")))), Why::Fit);
    // Another run of it is another matter.
    let other: Verdict = "?0000000000000009".parse().unwrap();
    let b = || unlinked(boot(seen("b"), 9));
    let all = || vec![seen("a"), b(), Seen { verdict: other.clone(), ..seen("c") }];
    assert_eq!(why(&mut members, 61_000, all()), Why::Quarantined);
    assert_eq!(why(&mut members, 71_000, all()), Why::NeverLinked);
}

/// Groups may be kept apart by the network.
#[test]
fn links_that_nodes_of_other_groups_miss_say_nothing() {
    let told: Verdict = "?0000000000000062".parse().unwrap();
    let far =
        |id: &str| Seen { group: Arc::from("other"), verdict: told.clone(), ..unlinked(seen(id)) };
    let all = || vec![seen("a"), seen("b"), far("c"), far("d"), far("e")];
    let mut members = Members::new(Arc::from("a"), QUARANTINE_MS);
    members.observe(0, all());
    assert_eq!(why(&mut members, 20_000, all()), Why::Fit);
    assert_eq!(members.standings()["c"].why, Why::Fit, "nor what this one misses of theirs");
}

#[test]
fn links_that_most_miss_are_nobodys_fault() {
    let mut members = Members::new(Arc::from("a"), QUARANTINE_MS);
    let all = || vec![seen("a"), unlinked(seen("b"))];
    members.observe(0, all());
    let told: Verdict = "?0000000000000061".parse().unwrap();
    let all = vec![seen("a"), Seen { verdict: told, ..unlinked(seen("b")) }];
    assert_eq!(why(&mut members, 20_000, all), Why::LastResort);
    assert_eq!(owners(&members), ["a", "b"]);
}

#[test]
fn the_sick_own_nothing_and_are_quarantined_when_they_get_well() {
    let mut members = settled();
    assert_eq!(why(&mut members, 61_000, vec![seen("a"), sick(seen("b")), seen("c")]), Why::Sick);
    let well = || vec![seen("a"), seen("b"), seen("c")];
    assert_eq!(why(&mut members, 62_000, well()), Why::Quarantined);
    assert_eq!(why(&mut members, 72_000, well()), Why::Fit);
}

#[test]
fn what_most_suffer_from_is_no_sickness() {
    let mut members = settled();
    let most = vec![seen("a"), sick(seen("b")), sick(seen("c"))];
    assert_eq!(why(&mut members, 61_000, most), Why::SickLikeMost);
    assert_eq!(owners(&members), ["a", "b", "c"]);
    let all = vec![sick(seen("a")), sick(seen("b")), sick(seen("c"))];
    assert_eq!(why(&mut members, 62_000, all), Why::SickLikeMost);
    // They lost nothing, so nobody comes back.
    members.observe(63_000, vec![seen("a"), seen("b"), seen("c")]);
    assert_eq!(owners(&members), ["a", "b", "c"]);
    let mut alone = Members::new(Arc::from("a"), QUARANTINE_MS);
    alone.observe(0, vec![sick(seen("a"))]);
    assert_eq!(owners(&alone), ["a"]);
}

#[test]
fn quarantine_does_not_count_if_nobody_else_could_own() {
    let mut members = Members::new(Arc::from("a"), QUARANTINE_MS);
    let watcher = || Seen { roles: Roles::NONE.with(Role::Push), ..seen("a") };
    members.observe(0, vec![watcher(), seen("b"), seen("c")]);
    members.observe(20_000, vec![watcher(), seen("c")]);
    members.observe(21_000, vec![watcher(), seen("b"), seen("c")]);
    assert_eq!(owners(&members), ["c"]);
    assert_eq!(why(&mut members, 22_000, vec![watcher(), seen("b")]), Why::LastResort);
    assert_eq!(owners(&members), ["b"]);
    // Draining ones serve only when there is nobody else at all.
    let draining_c = draining(seen("c"));
    members.observe(23_000, vec![watcher(), seen("b"), draining_c.clone()]);
    assert_eq!(owners(&members), ["b"]);
    members.observe(24_000, vec![watcher(), draining_c]);
    assert_eq!(owners(&members), ["c"]);
    assert_eq!(members.standings()["c"].why, Why::LastResort);
}

#[test]
fn only_brokers_of_a_group_own_in_it() {
    let mut members = Members::new(Arc::from("a"), QUARANTINE_MS);
    let gateway = Seen { roles: Roles::NONE.with(Role::Gateway), ..seen("a") };
    let other = Seen { group: Arc::from("other"), ..seen("c") };
    members.observe(0, vec![gateway, seen("b"), other]);
    assert_eq!(members.standings()["a"].why, Why::NoBroker);
    assert_eq!(owners(&members), ["b"]);
    assert_eq!(members.owners()["other"], [Arc::from("c")]);
}

#[test]
fn all_place_by_the_lowest_version_and_only_neighbours_of_it_own() {
    let version = |id: &str, placement_version| Seen { placement_version, ..seen(id) };
    let mut members = Members::new(Arc::from("a"), QUARANTINE_MS);
    // A node that owns nothing itself must still agree with the others.
    let old = Seen { roles: Roles::NONE.with(Role::Push), ..version("a", 2) };
    members.observe(0, vec![old, version("b", 3), version("c", 4)]);
    assert_eq!(members.placement_version(), Some(2));
    assert_eq!(owners(&members), ["b"]);
    assert_eq!(members.standings()["c"].why, Why::Version);
    members.observe(1_000, vec![version("a", 3), version("b", 3), version("c", 4)]);
    assert_eq!(members.placement_version(), Some(3));
    assert_eq!(owners(&members), ["a", "b", "c"]);
}

/// `a` was cut off, and thinks that `b` died; `c` was there and saw nothing of it.
#[test]
fn the_memory_of_one_counts_less_than_that_of_the_others() {
    let well: Verdict = "+0000000000000062".parse().unwrap();
    let c = || Seen { verdict: well.clone(), ..seen("c") };
    let mut members = settled();
    members.observe(61_000, vec![seen("a"), c()]);
    assert_eq!(why(&mut members, 62_000, vec![seen("a"), seen("b"), c()]), Why::Fit);
    let held = members.verdict(62_000);
    assert_eq!(held.judged(), "-0000000000000062+0000000000000063", "but it tells what it saw");
}

/// A node that just started learns from the others whom they hold in quarantine: itself too.
#[test]
fn whoever_has_seen_nothing_believes_the_others() {
    let mut members = Members::new(Arc::from("b"), QUARANTINE_MS);
    let held: Verdict = "-0000000000000002".parse().unwrap();
    let told = |id: &str| Seen { verdict: held.clone(), ..seen(id) };
    let me = || boot(seen("b"), 2);
    members.observe(0, vec![me(), told("a"), told("c")]);
    assert_eq!(owners(&members), ["a", "c"]);
    assert_eq!(members.standings()["b"].why, Why::Quarantined);
    assert_eq!(members.verdict(0), Verdict::default(), "it knows nothing of the others");
    assert_eq!(members.next_ms(), Some(QUARANTINE_MS));
    members.observe(QUARANTINE_MS, vec![me(), seen("a"), seen("c")]);
    assert_eq!(owners(&members), ["a", "b", "c"]);
    assert_eq!(members.verdict(QUARANTINE_MS).judged(), "+0000000000000061+0000000000000063");
}

/// A fresh node does not free by its vote whom an older one holds.
#[test]
fn a_member_that_others_hold_is_not_vouched_for() {
    let mut members = Members::new(Arc::from("a"), QUARANTINE_MS);
    let held: Verdict = "-0000000000000002".parse().unwrap();
    let all = || vec![seen("a"), boot(seen("b"), 2), Seen { verdict: held.clone(), ..seen("c") }];
    members.observe(0, all());
    assert_eq!(why(&mut members, 50_000, all()), Why::Quarantined);
    assert_eq!(members.verdict(50_000).judged(), "+0000000000000063", "only c is known");
}

#[test]
fn a_living_entry_of_a_name_counts_more_than_a_dead_one() {
    let mut members = settled();
    let ghost = Seen { alive: false, ..seen("b") };
    let both = vec![seen("a"), ghost, boot(seen("b"), 2), seen("c")];
    members.observe(61_000, both);
    assert_eq!(members.standings()["b"].boot, BootId(2));
}

#[test]
fn we_live_and_reach_ourselves_whatever_others_see() {
    let mut members = Members::new(Arc::from("a"), QUARANTINE_MS);
    let me = Seen { alive: false, linked: Link::Down, ..seen("a") };
    let standing = members.observe(0, vec![me])["a"];
    assert!(standing.owns && standing.reachable);
}

#[test]
fn the_memory_of_the_gone_is_bounded() {
    let mut members = settled();
    let id = |number: u64| format!("n{number}");
    for number in 0..2_000 {
        members.observe(MINUTE_MS + number, vec![seen("a"), seen(&id(number))]);
    }
    members.observe(MINUTE_MS + 2_000, vec![seen("a")]);
    assert_eq!(members.histories.len(), GONE_MAX + 1);
    // Those that went last are the ones that are remembered.
    members.observe(MINUTE_MS + 2_001, vec![seen("a"), seen(&id(1)), seen(&id(1_999))]);
    assert_eq!(owners(&members), ["a", "n1"]);
}

#[test]
fn a_verdict_is_bounded_and_tells_quarantines_first() {
    let votes = |count: u64| {
        (0..count).map(|number| {
            let vote = if number % 2 == 0 { Vote::Cleared } else { Vote::Quarantine };
            (BootId(number), vote)
        })
    };
    let verdict: Verdict = votes(150).collect();
    let text = verdict.judged();
    assert_eq!(text.len(), 1_768);
    assert_eq!(text.matches('-').count(), 75);
    assert_eq!(text.parse(), Ok(verdict));
    let long = format!("{text}+0000000000000000");
    for text in [
        long.as_str(),
        "+",
        "*000000000000000",
        "??000000000000000",
        "+00000000000000g0",
        "+ü00000000000000",
    ] {
        assert_eq!(text.parse::<Verdict>(), Err(NoVerdict), "{text}");
    }
    assert_eq!("".parse(), Ok(Verdict::default()));
}

#[test]
fn what_a_later_release_says_of_one_takes_nothing_from_what_is_said_of_others() {
    let known: Verdict = "+0000000000000001-0000000000000002".parse().unwrap();
    let later = "+0000000000000001-0000000000000002!0000000000000003";
    assert_eq!(later.parse(), Ok(known.clone()));
    let unlinked: Verdict = "?0000000000000001?0000000000000004".parse().unwrap();
    let both = known.with(unlinked);
    assert_eq!(both.judged(), "+0000000000000001-0000000000000002");
    assert_eq!(both.unlinked(), "?0000000000000004");
}
