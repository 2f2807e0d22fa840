//! What the HTTP API says of nodes and access points, and what a node without a role answers.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods, clippy::large_futures)]

#[allow(dead_code)]
mod http_support;

use clarion_config::Role;
use clarion_protocol::Code;
use clarion_protocol::http::{ClusterStatus, Gateways, Where};
use http_support::{Node, Request};
use serde_json::{Value, json};

async fn get(node: &Node, path: &str) -> http_support::Reply {
    node.send(Request::new("GET", path)).await
}

#[tokio::test]
async fn a_node_alone_is_its_own_access_point() {
    let node = Node::start().await;
    node.demo().await;
    for path in ["/v1/gateways", "/v1/gateways?product=demo", "/v1/gateways?product=demo&limit=1"] {
        let reply = get(&node, path).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let list: Gateways = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(list.gateways.len(), 1, "{list:?}");
        assert_eq!(list.gateways[0].url, "ws://127.0.0.1:8081");
        assert!((45..=75).contains(&list.ttl_s), "{list:?}");
    }
    for bad in ["limit=0", "limit=65", "limit=x", "product=a%20b"] {
        get(&node, &format!("/v1/gateways?{bad}")).await.refuses(Code::InvalidField);
    }
}

#[tokio::test]
async fn who_asks_for_access_points_learns_no_names_of_products() {
    let node = Node::start().await;
    node.demo().await;
    let list = |reply: http_support::Reply| reply.json()["gateways"].clone();
    let known = list(get(&node, "/v1/gateways?product=demo").await);
    assert_eq!(list(get(&node, "/v1/gateways?product=nobody").await), known);
    // A product of a group that has no node here is told no access point.
    node.product(json!({ "product": "gold", "isolation_group": "gold" })).await;
    assert_eq!(list(get(&node, "/v1/gateways?product=gold").await), json!([]));
}

#[tokio::test]
async fn an_address_that_asks_too_often_is_told_to_wait() {
    let node = Node::start().await;
    let mut connection = node.connect().await;
    let mut refused = None;
    for _ in 0..2000 {
        let reply = connection.send(Request::new("GET", "/v1/gateways")).await;
        if reply.status != 200 {
            refused = Some(reply);
            break;
        }
    }
    refused.expect("a refusal").refuses(Code::RateLimited);
}

#[tokio::test]
async fn the_cluster_of_a_node_alone_is_itself() {
    let node = Node::start().await;
    get(&node, "/v1/cluster").await.refuses(Code::AdminTokenInvalid);
    let reply = node.admin("GET", "/v1/cluster", None).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let status: ClusterStatus = serde_json::from_str(&reply.body).unwrap();
    assert_eq!((status.node.as_str(), status.cluster), ("node-1", None));
    let me = &status.nodes[0];
    assert_eq!(status.nodes.len(), 1);
    assert_eq!(me.roles, ["push", "gateway", "broker"]);
    assert!(me.reachable && me.owns && !me.draining && me.slots == 4096, "{me:?}");
    assert_eq!(me.status.as_ref().unwrap()["store"]["writable"], true);
}

#[tokio::test]
async fn where_names_the_owner_and_the_slot_of_every_sort_of_log() {
    let node = Node::start().await;
    node.demo().await;
    let mut slots = Vec::new();
    for (query, log) in [
        ("product=demo", "demo/broadcast"),
        ("product=demo&topic=news", "demo/topic/news"),
        ("product=demo&terminal=t1", "demo/terminal/t1"),
        ("product=demo&user=t1", "demo/user/t1"),
    ] {
        let reply = node.admin("GET", &format!("/v1/where?{query}"), None).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let place: Where = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(place.log, log);
        assert_eq!(place.owner.as_deref(), Some("node-1"));
        slots.push(place.slot);
    }
    slots.sort_unstable();
    slots.dedup();
    assert!(slots.len() > 1, "logs are spread");
    let admin = async |query: &str| node.admin("GET", &format!("/v1/where{query}"), None).await;
    admin("").await.refuses(Code::InvalidField);
    admin("?product=demo&topic=a&user=b").await.refuses(Code::InvalidField);
    admin("?product=other").await.refuses(Code::ProductUnknown);
    // Nobody serves a group that no node is of.
    node.product(json!({ "product": "gold", "isolation_group": "gold" })).await;
    let reply = admin("?product=gold").await;
    assert_eq!(reply.json().get("owner"), None, "{reply:?}");
    assert!(reply.json()["why"].as_str().unwrap().contains("gold"), "{reply:?}");
}

#[tokio::test]
async fn a_drain_is_passed_on_and_an_unknown_node_refused() {
    let node = Node::start().await;
    let drain = |id: &str| format!("/v1/cluster/nodes/{id}/drain");
    node.admin("POST", &drain("node-9"), None).await.refuses(Code::NodeUnknown);
    node.admin("POST", &drain("a%20b"), None).await.refuses(Code::InvalidField);
    let reply = node.admin("POST", &drain("node-1"), None).await;
    assert_eq!((reply.status, reply.json()), (202, json!({ "node": "node-1", "started": true })));
    // Whoever runs the node hears of it.
    node.system.drain_wanted().await;
}

#[tokio::test]
async fn a_product_moves_to_another_isolation_group() {
    let node = Node::start().await;
    let key = node.demo().await;
    let shown = node.admin("GET", &key.path(""), None).await.json();
    assert_eq!(shown["isolation_group"], "default");
    let change = json!({ "isolation_group": "gold" });
    let reply = node.admin("PATCH", &key.path(""), Some(change.clone())).await;
    assert_eq!(
        (reply.status, &reply.json()["isolation_group"]),
        (200, &json!("gold")),
        "{reply:?}"
    );
    let shown = node.admin("GET", &key.path(""), None).await.json();
    assert_eq!(shown["isolation_group"], "gold");
    assert!(shown["api_keys"][0].get("secret").is_none(), "no secret in the answer to a change");
    let patch = async |body| node.admin("PATCH", "/v1/products/demo", Some(body)).await;
    patch(json!({})).await.refuses(Code::InvalidField);
    patch(json!({ "isolation_group": "a b" })).await.refuses(Code::InvalidField);
    patch(json!({ "kinds": [] })).await.refuses(Code::InvalidField);
    node.admin("PATCH", "/v1/products/other", Some(change)).await.refuses(Code::ProductUnknown);
}

#[tokio::test]
async fn a_node_without_the_push_role_names_it_and_serves_the_rest() {
    let node = Node::with(|config| config.node.roles = vec![Role::Gateway, Role::Broker]).await;
    for (method, path) in
        [("POST", "/v1/products/demo/messages"), ("GET", "/v1/products"), ("POST", "/v1/products")]
    {
        let reply = node.admin(method, path, None).await;
        let problem = reply.refuses(Code::NotServedHere);
        assert_eq!(problem["detail"], "node node-1 has not the role push");
    }
    for path in ["/v1/status", "/v1/cluster"] {
        assert_eq!(node.admin("GET", path, None).await.status, 200, "{path}");
    }
    for path in ["/v1/gateways", "/livez", "/metrics", "/openapi.json", "/docs/codes"] {
        assert_eq!(get(&node, path).await.status, 200, "{path}");
    }
    let ready = get(&node, "/readyz").await;
    assert_eq!(ready.status, 200, "{ready:?}");
    assert!(ready.json()["doors"].get("push").is_none(), "no door that is not there: {ready:?}");
    let push = get(&node, "/readyz?door=push").await;
    assert_eq!(push.status, 503, "{push:?}");
    assert!(push.json()["doors"]["push"]["reason"].is_string(), "{push:?}");
}

#[tokio::test]
async fn proxies_choose_how_a_door_says_that_it_is_not_ready() {
    let node = Node::with(|config| config.node.roles = vec![Role::Push, Role::Broker]).await;
    let terminals = "/readyz?door=terminals";
    for (query, status) in [("", 503), ("&unready=503", 503), ("&unready=404", 404)] {
        let reply = get(&node, &format!("{terminals}{query}")).await;
        assert_eq!(reply.status, status, "{reply:?}");
        assert_eq!(reply.json()["ready"], false);
    }
    get(&node, "/readyz?unready=500").await.refuses(Code::InvalidField);
    assert_eq!(get(&node, "/readyz?unready=404").await.status, 200, "what is ready is 200");
}

const SPECIFICATION: &str = include_str!("../../sdk/protocol/README.md");

/// No path of the API is missing in the specification.
#[tokio::test]
async fn the_specification_names_every_path() {
    let node = Node::start().await;
    let document = get(&node, "/openapi.json").await.json();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            // Beside the methods stand the parameters that they share.
            if !["get", "put", "post", "patch", "delete"].contains(&method.as_str()) {
                continue;
            }
            let route = format!("`{} {path}`", method.to_uppercase());
            assert!(SPECIFICATION.contains(&route), "{route} is not in the specification");
        }
    }
}

/// The example of the specification has the form of what a node says.
#[tokio::test]
async fn readiness_is_told_as_the_specification_shows() {
    let block = SPECIFICATION.split("```json readiness\n").nth(1).unwrap();
    let example: Value = serde_json::from_str(block.split_once("```").unwrap().0).unwrap();
    let node = Node::start().await;
    let all = get(&node, "/readyz").await.json();
    assert_eq!(all["doors"]["terminals"], example["doors"]["terminals"]);
    assert_eq!(keys(&all), keys(&example));
    assert_eq!(keys(&all["doors"]), keys(&example["doors"]));
    let node = Node::with(|config| config.node.roles = vec![Role::Broker]).await;
    let closed = get(&node, "/readyz?door=push").await.json();
    assert_eq!(closed["ready"], example["ready"]);
    assert_eq!(keys(&closed["doors"]["push"]), keys(&example["doors"]["push"]));
}

fn keys(object: &Value) -> Vec<&String> {
    object.as_object().unwrap().keys().collect()
}
