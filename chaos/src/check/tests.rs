//! A good history passes; each way to make it bad is found, and named by its rule.

use super::*;

/// Two terminals of a user in product `p`, one in product `q`; id 1 to 5 belong to k1 to k5.
const GOOD: &str = r#"
{"t":0,"e":"run","format":1,"seed":1}
{"t":1,"e":"terminal","who":"p/a","user":"u","client":"sdk"}
{"t":1,"e":"terminal","who":"p/b","user":"u","client":"raw_plain"}
{"t":1,"e":"terminal","who":"q/a","user":null,"client":"sdk"}
{"t":2,"e":"joining","who":"p/a","log":"topic:news"}
{"t":3,"e":"opened","who":"p/a","session":1,"generation":1,"sent":[],"positions":[]}
{"t":3,"e":"joined","who":"p/a","log":"user"}
{"t":3,"e":"joined","who":"p/a","log":"broadcast"}
{"t":3,"e":"joined","who":"p/a","log":"topic:news"}
{"t":4,"e":"opened","who":"p/b","session":1,"generation":1,"sent":[],"positions":[["terminal",0],["user",0],["broadcast",0]]}
{"t":4,"e":"joined","who":"p/b","log":"user"}
{"t":4,"e":"joined","who":"p/b","log":"broadcast"}
{"t":4,"e":"opened","who":"q/a","session":1,"generation":1,"sent":[],"positions":[]}
{"t":4,"e":"joined","who":"q/a","log":"broadcast"}
{"t":5,"e":"invoke","key":"k1","product":"p","targets":[{"terminal":"a"},{"terminal":"b"}],"hash":"h1"}
{"t":6,"e":"accepted","key":"k1","id":"00000000000000000000000001","targets":[[{"terminal":"a"},10],[{"terminal":"b"},null]]}
{"t":7,"e":"delivered","who":"p/a","session":1,"log":"terminal","offset":10,"id":"00000000000000000000000001","key":"k1","hash":"h1","again":false}
{"t":8,"e":"invoke","key":"k2","product":"p","targets":["all"],"hash":"h2"}
{"t":9,"e":"accepted","key":"k2","id":"00000000000000000000000002","targets":[["all",20]]}
{"t":10,"e":"delivered","who":"p/a","session":1,"log":"broadcast","offset":20,"id":"00000000000000000000000002","key":"k2","hash":"h2","again":false}
{"t":10,"e":"delivered","who":"p/b","session":1,"log":"broadcast","offset":20,"id":"00000000000000000000000002","key":"k2","hash":"h2","again":false}
{"t":11,"e":"acknowledged","who":"p/b","session":1,"log":"broadcast","offset":20}
{"t":12,"e":"invoke","key":"k3","product":"p","targets":[{"user":"u"}],"hash":"h3"}
{"t":13,"e":"killed","n":1}
{"t":13,"e":"left","who":"p/b","session":1,"how":"broken"}
{"t":14,"e":"unknown","key":"k3","why":"it broke"}
{"t":15,"e":"ready","n":1}
{"t":16,"e":"opened","who":"p/a","session":2,"generation":2,"sent":[],"positions":[]}
{"t":16,"e":"opened","who":"p/b","session":2,"generation":2,"sent":[],"positions":[["terminal",0],["user",0],["broadcast",0]]}
{"t":17,"e":"delivered","who":"p/a","session":2,"log":"user","offset":30,"id":"00000000000000000000000003","key":"k3","hash":"h3","again":false}
{"t":17,"e":"delivered","who":"p/b","session":2,"log":"user","offset":30,"id":"00000000000000000000000003","key":"k3","hash":"h3","again":false}
{"t":18,"e":"delivered","who":"p/b","session":2,"log":"broadcast","offset":20,"id":"00000000000000000000000002","key":"k2","hash":"h2","again":false}
{"t":19,"e":"invoke","key":"k4","product":"p","targets":["all"],"hash":"h4"}
{"t":20,"e":"refused","key":"k4","why":"overloaded"}
{"t":21,"e":"invoke","key":"k5","product":"p","targets":["all"],"hash":"h5"}
{"t":22,"e":"accepted","key":"k5","id":"00000000000000000000000005","targets":[["all",25]]}
{"t":23,"e":"delivered","who":"p/a","session":2,"log":"broadcast","offset":25,"id":"00000000000000000000000005","key":"k5","hash":"h5","again":false}
{"t":23,"e":"delivered","who":"p/b","session":2,"log":"broadcast","offset":25,"id":"00000000000000000000000005","key":"k5","hash":"h5","again":false}
{"t":24,"e":"acknowledged","who":"p/b","session":2,"log":"broadcast","offset":25}
{"t":25,"e":"left","who":"p/b","session":2,"how":"closed"}
{"t":26,"e":"opened","who":"p/b","session":3,"generation":3,"sent":[],"positions":[["terminal",0],["user",0],["broadcast",25]]}
{"t":30,"e":"counted","key":"k1","counts":{"audience":1,"delivered":1,"acknowledged":1,"expired":0,"undeliverable":0,"suppressed":0,"evicted":0,"pending":0}}
{"t":30,"e":"counted","key":"k2","counts":{"audience":2,"delivered":2,"acknowledged":2,"expired":0,"undeliverable":0,"suppressed":0,"evicted":0,"pending":0}}
{"t":30,"e":"counted","key":"k5","counts":{"audience":2,"delivered":2,"acknowledged":2,"expired":0,"undeliverable":0,"suppressed":0,"evicted":0,"pending":0}}
"#;

fn records(text: &str) -> Vec<Record> {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// The rules that are broken when `find` (which must be there once) reads `replace` instead.
fn broken(find: &str, replace: &str) -> Vec<Rule> {
    assert_eq!(GOOD.matches(find).count(), 1, "{find}");
    let mut rules: Vec<Rule> =
        check(&records(&GOOD.replace(find, replace))).into_iter().map(|v| v.rule).collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}

/// The rules that are broken with `lines` put behind the one that holds `find`.
fn broken_with(find: &str, lines: &str) -> Vec<Rule> {
    let line = GOOD.lines().find(|line| line.contains(find)).expect(find);
    broken(line, &format!("{line}\n{lines}"))
}

fn line(find: &str) -> &'static str {
    GOOD.lines().find(|line| line.contains(find)).expect(find)
}

#[test]
fn a_good_history_passes() {
    assert_eq!(check(&records(GOOD)), []);
}

#[test]
fn records_are_written_as_they_are_read() {
    for line in GOOD.lines().filter(|line| !line.is_empty()) {
        let record: Record = serde_json::from_str(line).expect(line);
        assert_eq!(serde_json::to_string(&record).unwrap(), line);
    }
}

#[test]
fn an_accepted_push_that_a_terminal_did_not_get_is_lost_n1() {
    let missing = line(r#""p/b","session":2,"log":"broadcast","offset":25"#);
    assert!(broken(missing, "").contains(&Rule::Lost));
    let owed = super::missing(&records(&GOOD.replace(missing, "")));
    assert_eq!(owed.len(), 1);
    assert_eq!((&*owed[0].who, &*owed[0].key), ("p/b", "k5"));
}

#[test]
fn a_push_without_answer_that_one_terminal_got_is_owed_to_the_others_i1() {
    let missing = line(r#""p/b","session":2,"log":"user""#);
    assert_eq!(broken(missing, ""), [Rule::Lost]);
    // Nobody got it: it was never stored, and that is fine.
    let text = GOOD.replace(missing, "").replace(line(r#""p/a","session":2,"log":"user""#), "");
    assert_eq!(check(&records(&text)), []);
}

#[test]
fn a_terminal_is_owed_only_what_was_pushed_after_it_joined_i3() {
    let joined = line(r#""joined","who":"p/b","log":"broadcast""#);
    let text = GOOD.replace(joined, "");
    let missing = line(r#""p/b","session":2,"log":"broadcast","offset":25"#);
    let text = text.replace(missing, "");
    assert_eq!(super::missing(&records(&text)), []);
}

#[test]
fn a_target_that_was_refused_is_owed_nothing_and_must_get_nothing() {
    let delivered = line(r#""p/a","session":1,"log":"terminal""#).replace("p/a", "p/b");
    let rules = broken_with(r#""accepted","key":"k1""#, &delivered);
    assert!(rules.contains(&Rule::Invented), "{rules:?}");
}

#[test]
fn an_sdk_terminal_that_is_given_an_id_twice_is_told() {
    let again = line(r#""p/a","session":2,"log":"broadcast","offset":25"#);
    assert!(broken_with(again, &again.replace("false", "true")).contains(&Rule::Repeated));
}

#[test]
fn a_session_that_starts_before_what_was_saved_is_told_i7_i9() {
    // Closed in good order and not killed since: 25 is known.
    let bad = r#""session":3,"generation":3,"sent":[],"positions":[["terminal",0],["user",0],["broadcast",20]]"#;
    let good = bad.replace("20]]", "25]]");
    assert_eq!(broken(&good, bad), [Rule::Unsaved]);
    // A kill in between may have come before it was written down.
    let killed = r#"{"t":25,"e":"killed","n":2}"#;
    let text = GOOD.replace(&good, bad);
    let closed = line(r#""how":"closed""#);
    assert_eq!(check(&records(&text.replace(closed, &format!("{closed}\n{killed}")))), []);
}

#[test]
fn a_session_that_starts_before_the_cursor_it_was_given_is_told() {
    let good = r#""session":2,"generation":2,"sent":[],"positions":[["terminal",0],["user",0],["broadcast",0]]"#;
    let bad = good.replace(r#""sent":[]"#, r#""sent":[["broadcast",20]]"#);
    assert_eq!(broken(good, &bad), [Rule::Unsaved]);
}

#[test]
fn an_acknowledgement_that_was_never_saved_is_told() {
    let again = r#"{"t":16,"e":"opened","who":"p/b","session":2"#;
    assert_eq!(broken(again, &again.replace("16", "20000")), [Rule::Unsaved]);
}

#[test]
fn a_delivery_from_before_the_start_of_the_session_is_told() {
    let again = line(r#""p/b","session":2,"log":"broadcast","offset":25"#);
    let late = again.replace(r#""session":2"#, r#""session":3"#);
    let opened = line(r#""session":3,"generation":3"#);
    assert_eq!(broken_with(opened, &late), [Rule::Unsaved]);
    // Sent again on the link: no fault.
    assert_eq!(broken_with(opened, &late.replace("false", "true")), []);
}

#[test]
fn a_log_that_goes_back_within_a_session_is_told_i8() {
    let first = line(r#""p/b","session":2,"log":"broadcast","offset":20"#);
    let second = line(r#""p/b","session":2,"log":"broadcast","offset":25"#);
    let text = GOOD.replace(first, "").replace(second, &format!("{second}\n{first}"));
    let rules: Vec<Rule> = check(&records(&text)).into_iter().map(|v| v.rule).collect();
    assert_eq!(rules, [Rule::Order]);
}

#[test]
fn a_push_that_stands_before_an_earlier_one_is_told_i8() {
    let text =
        GOOD.replace(r#""offset":25"#, r#""offset":15"#).replace(r#"["all",25]"#, r#"["all",15]"#);
    let rules: Vec<Rule> = check(&records(&text)).into_iter().map(|v| v.rule).collect();
    assert!(rules.contains(&Rule::RealTime), "{rules:?}");
}

#[test]
fn two_messages_at_one_offset_are_told_i1_i2() {
    let find = r#""p/b","session":1,"log":"broadcast","offset":20,"id":"00000000000000000000000002","key":"k2","hash":"h2""#;
    let bad = find.replace("02\"", "05\"").replace("k2", "k5").replace("h2", "h5");
    assert!(broken(find, &bad).contains(&Rule::Disagreement));
}

#[test]
fn one_message_at_two_offsets_is_told_i2() {
    let find = r#""p/b","session":2,"log":"broadcast","offset":25,"id""#;
    assert!(broken(find, &find.replace("25", "26")).contains(&Rule::Disagreement));
}

#[test]
fn a_key_with_two_ids_is_told_i2() {
    let again = line(r#""accepted","key":"k2""#).replace("02\"", "09\"").replace("20]", "21]");
    assert_eq!(broken_with(r#""accepted","key":"k5""#, &again), [Rule::StoredTwice]);
}

#[test]
fn a_delivery_of_nobodys_push_is_told() {
    let find = r#"00000000000000000000000001","key":"k1","hash""#;
    assert!(broken(find, &find.replace("k1", "k9")).contains(&Rule::Invented));
}

#[test]
fn a_delivery_of_a_refused_push_is_told() {
    let bad = line(r#""p/a","session":2,"log":"broadcast","offset":25"#);
    let bad =
        bad.replace("05\"", "04\"").replace("25", "40").replace("k5", "k4").replace("h5", "h4");
    let rules = broken_with(r#""refused""#, &bad);
    assert!(rules.contains(&Rule::Invented), "{rules:?}");
}

#[test]
fn an_altered_payload_is_told() {
    let find = r#""key":"k1","hash":"h1","again""#;
    assert_eq!(broken(find, &find.replace("h1", "h0")), [Rule::Altered]);
}

#[test]
fn a_delivery_to_a_terminal_of_another_product_is_told() {
    let theirs = line(r#""p/a","session":1,"log":"broadcast","offset":20"#).replace("p/a", "q/a");
    let rules = broken_with(r#""accepted","key":"k2""#, &theirs);
    assert!(rules.contains(&Rule::Misdelivered), "{rules:?}");
}

#[test]
fn a_delivery_from_a_log_that_is_not_the_terminals_is_told() {
    let push = r#"{"t":27,"e":"invoke","key":"k6","product":"p","targets":[{"topic":"news"}],"hash":"h6"}"#;
    let given = line(r#""p/b","session":2,"log":"broadcast","offset":25"#);
    let given =
        given.replace("broadcast", "topic:news").replace("25", "50").replace("05\"", "06\"");
    let given = given.replace("k5", "k6").replace("h5", "h6");
    let rules = broken_with(r#""session":3,"generation":3"#, &format!("{push}\n{given}"));
    assert!(rules.contains(&Rule::Misdelivered), "{rules:?}");
}

#[test]
fn a_session_that_is_not_newer_than_the_last_is_told_i7() {
    let find = r#""p/a","session":2,"generation":2"#;
    assert_eq!(broken(find, r#""p/a","session":2,"generation":1"#), [Rule::Generation]);
}

#[test]
fn counts_that_do_not_add_up_or_are_not_what_happened_are_told_i13() {
    let find = r#""key":"k5","counts":{"audience":2,"delivered":2,"acknowledged":2"#;
    assert_eq!(broken(find, &find.replace("audience\":2", "audience\":3")), [Rule::Counts]);
    let fewer = find
        .replace("audience\":2", "audience\":1")
        .replace("acknowledged\":2", "acknowledged\":1");
    assert_eq!(broken(find, &fewer), [Rule::Counts]);
    assert_eq!(broken(find, &find.replace("delivered\":2", "delivered\":1")), [Rule::Counts]);
    let counted = line(r#""counted","key":"k5""#);
    let pending =
        counted.replace("audience\":2", "audience\":3").replace("pending\":0", "pending\":1");
    assert_eq!(broken(counted, &pending), [Rule::Counts]);
    assert_eq!(broken(counted, ""), [Rule::Counts]);
}

#[test]
fn of_counts_around_a_fault_in_a_cluster_some_may_be_lost_none_invented() {
    let counted = line(r#""counted","key":"k5""#);
    let found = |t: u64, counted_now: &str| {
        let fault = format!(r#"{{"t":{t},"e":"fault","n":2,"what":"kill -9 of node-1"}}"#);
        let text = GOOD.replace(counted, &format!("{counted_now}\n{fault}"));
        check(&records(&text)).into_iter().map(|v| v.rule).collect::<Vec<_>>()
    };
    let fewer = counted.replace(r#""acknowledged":2"#, r#""acknowledged":1"#);
    let fewer = fewer.replace(r#""pending":0"#, r#""pending":1"#);
    assert_eq!(found(30, ""), []);
    assert_eq!(found(30, &fewer), []);
    assert_eq!(found(60_000, &fewer), [Rule::Counts]);
    let more = fewer.replace(r#""acknowledged":1"#, r#""acknowledged":3"#);
    let more = more.replace(r#""audience":2"#, r#""audience":4"#);
    assert_eq!(found(30, &more), [Rule::Counts], "more than there were");
    let gone = fewer.replace(r#""pending":1"#, r#""pending":0"#);
    assert_eq!(found(30, &gone), [Rule::Counts], "the sum is wrong");
}

#[test]
fn trouble_is_told_i5_i6() {
    let trouble = r#"{"t":27,"e":"trouble","who":"p/a","what":"a gap"}"#;
    assert_eq!(broken_with(r#""session":3,"generation":3"#, trouble), [Rule::Trouble]);
}
