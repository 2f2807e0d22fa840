//! The examples of the specification are what the code reads and writes, and leave no frame out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;

use clarion_protocol::Problem;
use clarion_protocol::http::*;
use clarion_protocol::push_link::{BackendFrame, PushNodeFrame};
use clarion_protocol::terminal::{NodeFrame, TerminalFrame};
use serde_json::Value;

/// The JSON blocks of the specification: what each is, and its text.
fn examples() -> Vec<(String, String)> {
    let readme = include_str!("../README.md");
    let blocks = readme.split("```json ").skip(1);
    blocks
        .map(|block| {
            let (kind, rest) = block.split_once('\n').unwrap();
            (kind.to_owned(), rest.split_once("```").unwrap().0.to_owned())
        })
        .collect()
}

fn written(kind: &str, text: &str) -> String {
    fn body<T: serde::Serialize + for<'a> serde::Deserialize<'a>>(text: &str) -> String {
        serde_json::to_string(&parse_body::<T>(text.as_bytes()).expect(text)).unwrap()
    }
    match kind {
        "terminal" => TerminalFrame::parse(text).expect(text).to_json(),
        "node" => NodeFrame::parse(text).expect(text).to_json(),
        "backend" => BackendFrame::parse(text).expect(text).to_json(),
        "push-node" => PushNodeFrame::parse(text).expect(text).to_json(),
        "push" => {
            let push: PushRequest = parse_body(text.as_bytes()).expect(text);
            push.validate(PAYLOAD_BYTES_MAX_DEFAULT).expect(text);
            body::<PushRequest>(text)
        }
        "accepted" => body::<PushAccepted>(text),
        "state" => body::<MessageState>(text),
        "claims" => body::<TokenClaims>(text),
        "gateways" => body::<Gateways>(text),
        "cluster" => body::<ClusterStatus>(text),
        "where" => body::<Where>(text),
        "drain" => body::<DrainStarted>(text),
        // Free in form; the node's tests compare it with what a node says.
        "readiness" => text.to_owned(),
        "problem" => body::<Problem>(text),
        _ => panic!("nobody reads {kind}"),
    }
}

/// Nothing in an example is ignored or missing: written again it is the same JSON.
#[test]
fn examples_are_what_they_say() {
    let examples = examples();
    assert!(examples.len() > 30);
    for (kind, text) in examples {
        let there: Value = serde_json::from_str(&text).expect(&text);
        let here: Value = serde_json::from_str(&written(&kind, &text)).unwrap();
        assert_eq!(here, there);
    }
}

#[test]
fn every_frame_has_an_example() {
    let t = |json: &str| serde_json::from_str::<Value>(json).unwrap()["t"].to_string();
    let shown = |wanted: &str| -> BTreeSet<String> {
        let of_kind = examples().into_iter().filter(|(kind, _)| kind == wanted);
        of_kind.map(|(_, text)| t(&text)).collect()
    };
    let all = |jsons: Vec<String>| -> BTreeSet<String> { jsons.iter().map(|j| t(j)).collect() };
    let json = common::terminal_frames().iter().map(TerminalFrame::to_json).collect();
    assert_eq!(shown("terminal"), all(json));
    let json = common::node_frames().iter().map(NodeFrame::to_json).collect();
    assert_eq!(shown("node"), all(json));
    let json = common::backend_frames().iter().map(BackendFrame::to_json).collect();
    assert_eq!(shown("backend"), all(json));
    let json = common::push_node_frames().iter().map(PushNodeFrame::to_json).collect();
    assert_eq!(shown("push-node"), all(json));
}

/// Links within the specification lead somewhere.
#[test]
fn links_within_the_specification_work() {
    let readme = include_str!("../README.md");
    let anchor = |heading: &str| -> String {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        text.chars()
            .filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-')
            .collect::<String>()
            .replace(' ', "-")
    };
    let anchors: BTreeSet<String> =
        readme.lines().filter(|line| line.starts_with('#')).map(anchor).collect();
    for link in readme.split("](#").skip(1) {
        let target = link.split_once(')').unwrap().0;
        assert!(anchors.contains(target), "no heading for #{target}");
    }
}
