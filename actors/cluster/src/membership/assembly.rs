//! From what was told and who holds which seat to the next view. Pure, but for log lines.

use std::collections::BTreeMap;
use std::sync::Arc;

use clarion_core::Roles;
use clarion_core::membership::{Members, Seen, Standing, Verdict};
use clarion_core::placement::SlotTable;

use super::MEMBERS_MAX;
use super::facts::Facts;
use super::gossip::Told;
use super::seats::{Conflict, Seated, Seating};
use super::view::{Member, View};

/// Seeds that have not answered for this long are not there: this node is the first.
const SETTLED_MS: u64 = 3_000;
/// At most one line of log for each kind of mistake in this time.
const SAID_EVERY_MS: u64 = 60_000;

type Tables = BTreeMap<Arc<str>, Arc<SlotTable>>;
type Row<'a> = (&'a Arc<str>, &'a Seated, &'a Told);

/// The memory behind the views.
pub(super) struct Assembly {
    me: Arc<str>,
    /// There are no seeds: nobody is waited for.
    alone: bool,
    members: Members,
    conflict_said_ms: Option<u64>,
    crowd_said_ms: Option<u64>,
}

impl Assembly {
    pub(super) const fn new(me: Arc<str>, alone: bool, members: Members) -> Self {
        Self { me, alone, members, conflict_said_ms: None, crowd_said_ms: None }
    }

    /// Before anybody was seen. Never handed out.
    pub(super) const fn nothing() -> View {
        View {
            revision: 0,
            members: Vec::new(),
            tables: BTreeMap::new(),
            conflicts: Vec::new(),
            settled: false,
            placement_version: None,
            me: 0,
        }
    }

    /// Whom we hold in quarantine, for the others to know.
    pub(super) fn verdict(&self, now_ms: u64) -> Verdict {
        self.members.verdict(now_ms)
    }

    /// The next view, if it differs.
    pub(super) fn view(
        &mut self,
        now_ms: u64,
        former: &View,
        told: &[Told],
        seating: Seating,
    ) -> Option<View> {
        let mut rows: Vec<Row<'_>> = seating
            .seated
            .iter()
            .filter_map(|(id, seat)| Some((id, seat, told.get(seat.heard)?)))
            .collect();
        self.bound(now_ms, former, &mut rows);
        self.say_conflicts(now_ms, &seating.conflicts);
        self.take_last_words(now_ms, former, &rows);
        let seen = rows.iter().map(seen).collect();
        let standings = self.members.observe(now_ms, seen);
        let alive = rows.iter().filter(|(_, seat, _)| seat.alive);
        let members: Vec<_> =
            alive.filter_map(|(id, _, one)| Some(member(id, one, *standings.get(*id)?))).collect();
        // Chitchat always holds our own state; if ever not, the former view stays.
        let me = members.iter().position(|one| one.id == self.me)?;
        let tables = tables(former, &self.members);
        let settled = former.settled || self.alone || members.len() > 1 || now_ms >= SETTLED_MS;
        if settled && !former.settled && !self.alone && members.len() == 1 {
            tracing::warn!(
                "no seed has answered: this node acts as the first of the cluster. If there are \
                 others, compare cookie, cluster.name and clocks, and let UDP and TCP through to \
                     cluster.listen"
            );
        }
        let placement_version = self.members.placement_version();
        let same = former.members == members
            && same_tables(&former.tables, &tables)
            && former.conflicts == seating.conflicts
            && (former.settled, former.placement_version) == (settled, placement_version);
        if same {
            return None;
        }
        let (revision, conflicts) = (former.revision + 1, seating.conflicts);
        Some(View { revision, members, tables, conflicts, settled, placement_version, me })
    }

    /// At most [`MEMBERS_MAX`]: ourselves, then those there already, then the others that live.
    fn bound(&mut self, now_ms: u64, former: &View, rows: &mut Vec<Row<'_>>) {
        if rows.len() <= MEMBERS_MAX {
            return;
        }
        rows.sort_by_key(|(id, seat, _)| {
            (**id != self.me, former.member(id).is_none(), !seat.alive)
        });
        let cut = rows.split_off(MEMBERS_MAX);
        rows.sort_by_key(|(id, _, _)| *id);
        let living = cut.iter().filter(|(_, seat, _)| seat.alive).count();
        let quiet = self.crowd_said_ms.is_some_and(|at| now_ms < at + SAID_EVERY_MS);
        if living > 0 && !quiet {
            self.crowd_said_ms = Some(now_ms);
            tracing::error!(living, members_max = MEMBERS_MAX, "nodes too many: not let in");
        }
    }

    /// Who leaves is observed once more as draining, so that its return is no flap.
    fn take_last_words(&mut self, now_ms: u64, former: &View, rows: &[Row<'_>]) {
        let leaves = |(id, _, one): &Row<'_>| {
            let before = former.member(id).filter(|before| before.boot == one.facts.boot);
            one.marks.left && before.is_some()
        };
        if rows.iter().any(leaves) {
            let last = |row: &Row<'_>| Seen { alive: row.1.alive || leaves(row), ..seen(row) };
            self.members.observe(now_ms, rows.iter().map(last).collect());
        }
    }

    fn say_conflicts(&mut self, now_ms: u64, conflicts: &[Conflict]) {
        let quiet = self.conflict_said_ms.is_some_and(|at| now_ms < at + SAID_EVERY_MS);
        if conflicts.is_empty() || quiet {
            return;
        }
        self.conflict_said_ms = Some(now_ms);
        for conflict in conflicts {
            let id = &conflict.id;
            tracing::error!(%id, "{}", conflict.told(*self.me == **id));
        }
    }
}

fn seen((id, seat, one): &Row<'_>) -> Seen {
    Seen {
        id: Arc::clone(id),
        boot: seat.boot,
        roles: Roles::from_gossip(&one.facts.roles),
        group: one.facts.group.as_str().into(),
        placement_version: one.facts.placement_version,
        draining: one.marks.draining || one.marks.left,
        sick: one.marks.sick,
        alive: seat.alive,
        linked: seat.link,
        verdict: one.verdict.clone(),
    }
}

fn member(id: &Arc<str>, one: &Told, standing: Standing) -> Member {
    let Facts { boot, peer_addr, wire, placement_version, .. } = *one.facts;
    Member {
        id: Arc::clone(id),
        boot,
        peer_addr,
        roles: Roles::from_gossip(&one.facts.roles),
        group: one.facts.group.as_str().into(),
        version: one.facts.version.clone(),
        wire,
        placement_version,
        draining: one.marks.draining,
        sick: one.marks.sick,
        load: one.load,
        http_url: one.facts.http_url.clone(),
        terminals_url: one.facts.terminals_url.clone(),
        standing,
    }
}

/// The former tables as long as owners and version are the same: making one costs milliseconds.
fn tables(former: &View, members: &Members) -> Tables {
    let same_version = former.placement_version == members.placement_version();
    let kept = |group: &Arc<str>, ids: &Vec<Arc<str>>| {
        let table = former.tables.get(group).filter(|_| same_version);
        table.filter(|table| table.members().eq(ids.iter())).map(Arc::clone)
    };
    let owners = members.owners();
    if owners.iter().all(|(group, ids)| kept(group, ids).is_some()) {
        let all = owners.iter();
        return all.filter_map(|(id, ids)| Some((Arc::clone(id), kept(id, ids)?))).collect();
    }
    let fresh = members.tables().into_iter().map(|(group, table)| {
        let kept = owners.get(&group).and_then(|ids| kept(&group, ids));
        (group, kept.unwrap_or_else(|| Arc::new(table)))
    });
    fresh.collect()
}

fn same_tables(one: &Tables, other: &Tables) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|(one, other)| one.0 == other.0 && Arc::ptr_eq(one.1, other.1))
}

/// One line of log for whoever came, went, or stands otherwise than before.
pub(super) fn say_changes(former: &View, view: &View) {
    for one in &view.members {
        let why = one.standing.why.as_str();
        match former.member(&one.id) {
            None => tracing::info!(id = %one.id, boot = %one.boot, addr = %one.peer_addr,
                standing = why, "member joined"),
            Some(before) if before.boot != one.boot => {
                tracing::info!(id = %one.id, boot = %one.boot, former = %before.boot,
                    standing = why, "member restarted");
            }
            Some(before) if before.standing.why != one.standing.why => {
                let now =
                    if one.standing.owns { "member may own logs" } else { "member owns nothing" };
                tracing::info!(id = %one.id, boot = %one.boot, standing = why, "{now}");
            }
            Some(_) => {}
        }
    }
    for gone in former.members.iter().filter(|gone| view.member(&gone.id).is_none()) {
        tracing::warn!(id = %gone.id, boot = %gone.boot, "member gone");
    }
}

#[cfg(test)]
mod tests {
    use clarion_core::BootId;

    use super::super::facts::{Load, Marks};
    use super::super::seats::{Heard, Seats};
    use super::*;

    fn told(number: usize) -> Told {
        let addr = "127.0.0.1:7000".parse().unwrap();
        let boot = BootId(number as u64 + 1);
        let facts = Facts {
            boot,
            group: "default".into(),
            roles: "broker".into(),
            peer_addr: addr,
            version: "test".into(),
            wire: (1, 1),
            placement_version: 2,
            http_url: String::new(),
            terminals_url: None,
        };
        let heard = Heard {
            id: format!("n{number:04}").as_str().into(),
            generation: 1,
            addr,
            boot,
            heartbeat: 1,
            live: true,
            left: false,
        };
        let (marks, load) = (Marks::default(), Load::default());
        Told { heard, facts: Arc::new(facts), marks, load, verdict: Verdict::default() }
    }

    struct Bench {
        seats: Seats,
        assembly: Assembly,
        view: View,
        now_ms: u64,
    }

    impl Bench {
        fn of(me: &Told) -> Self {
            let id = Arc::clone(&me.heard.id);
            let seats = Seats::new(Arc::clone(&id), me.heard.boot);
            let members = Members::new(Arc::clone(&id), 10_000);
            let assembly = Assembly::new(id, true, members);
            Self { seats, assembly, view: Assembly::nothing(), now_ms: 0 }
        }

        fn see(&mut self, told: &[Told]) -> bool {
            self.now_ms += 100;
            let heard: Vec<_> = told.iter().map(|one| one.heard.clone()).collect();
            let seating = self.seats.seat(self.now_ms, &heard, true);
            let view = self.assembly.view(self.now_ms, &self.view, told, seating);
            let differs = view.is_some();
            self.view = view.unwrap_or_else(|| self.view.clone());
            differs
        }
    }

    #[test]
    fn members_are_bounded_and_those_there_stay() {
        let last = told(9_999);
        let mut bench = Bench::of(&last);
        let first: Vec<_> = (500..600).map(told).chain([last.clone()]).collect();
        assert!(bench.see(&first));
        assert_eq!(bench.view.members.len(), 101);
        let more: Vec<_> = (0..500).map(told).chain(first).collect();
        assert!(bench.see(&more));
        assert_eq!(bench.view.members.len(), MEMBERS_MAX);
        assert_eq!(bench.view.me().id, last.heard.id);
        assert!((500..600).all(|number| bench.view.member(&told(number).heard.id).is_some()));
        assert!(bench.view.members.is_sorted_by_key(|one| one.id.clone()));
    }

    #[test]
    fn a_view_without_news_is_none() {
        let me = told(1);
        let mut bench = Bench::of(&me);
        assert!(bench.see(&[me.clone(), told(2)]));
        assert!(!bench.see(&[me.clone(), told(2)]));
        assert!(bench.see(std::slice::from_ref(&me)));
        assert_eq!(bench.view.revision, 2);
        assert!(!bench.see(&[]), "without ourselves nothing changes");
    }

    #[test]
    fn a_lower_placement_version_makes_the_tables_anew() {
        let me = told(1);
        let mut bench = Bench::of(&me);
        bench.see(std::slice::from_ref(&me));
        let before = bench.view.tables.clone();
        let mut old = told(2);
        let facts = Facts { placement_version: 1, roles: "push".into(), ..(*old.facts).clone() };
        old.facts = Arc::new(facts);
        bench.see(&[me, old]);
        assert_eq!(bench.view.placement_version, Some(1));
        assert!(!same_tables(&before, &bench.view.tables));
    }
}
