//! What makes a node one of several: the cookie, what it is called from outside, its neighbours.

use std::net::SocketAddr;
use std::sync::Arc;

use clarion_actors::System;
use clarion_cluster::Cookie;
use clarion_config::{Config, Environment};
use clarion_storage::Store;

use super::error::StartError;
use super::node::url;
use crate::neighbours::{Myself, Neighbours};

/// The cookie, unless the node is alone.
pub(crate) fn cookie(
    config: &Config,
    environment: &Environment,
) -> Result<Option<Cookie>, StartError> {
    if config.cluster.listen.is_none() {
        return Ok(None);
    }
    let mend = "set cluster.cookie_file, or CLARION_COOKIE, alike on all nodes";
    let secret = config.cluster_cookie(environment).map_err(|error| {
        StartError::new(format!("{}: {}", error.origin, error.reason)).mend(error.mend)
    })?;
    let secret = secret.ok_or_else(|| StartError::new("there is no cookie").mend(mend))?;
    let cookie = Cookie::new(secret.expose());
    cookie.map(Some).map_err(|error| StartError::new(format!("the cookie: {error}")).mend(mend))
}

/// Fills in what the node is called from outside: by others in the cluster's status, by terminals
/// in the list of access points.
pub(super) fn addresses(config: &mut Config, http: SocketAddr, terminals: Option<SocketAddr>) {
    // What listens everywhere is reached where other nodes reach this one.
    let outside = config.cluster.advertise.or(config.cluster.listen).map(|address| address.ip());
    let reached = |mut address: SocketAddr| {
        if let Some(ip) = outside.filter(|_| address.ip().is_unspecified()) {
            address.set_ip(ip);
        }
        address
    };
    let certificate = &config.http.tls_cert_file;
    let http_url = url("http", "https", certificate, reached(http));
    config.http.advertise_url.get_or_insert(http_url);
    if let Some(terminals) = terminals {
        let certificate = &config.terminals.tls_cert_file;
        let terminals_url = url("ws", "wss", certificate, reached(terminals));
        config.terminals.external_url.get_or_insert(terminals_url);
    }
}

/// Starts the actors: alone, or in the cluster that the cookie opens.
pub(super) async fn start(
    config: &Arc<Config>,
    store: &Arc<dyn Store>,
    cookie: Option<Cookie>,
) -> Result<System, StartError> {
    let (config, store) = (Arc::clone(config), Arc::clone(store));
    let started = match cookie {
        None => System::start(config, store).await,
        Some(cookie) => System::start_in_cluster(config, store, cookie).await,
    };
    started.map_err(|failure| {
        let detail = failure.detail.unwrap_or_else(|| failure.code.help().to_owned());
        StartError::new(format!("the node does not start: {}: {detail}", failure.code))
            .mend("`clarion doctor FILE` looks at addresses, store and other nodes")
    })
}

/// The other nodes, as the doors see them.
pub(super) fn neighbours(config: &Config, system: &System) -> Neighbours {
    let me = Myself {
        id: config.node.id.clone(),
        roles: config.node.roles.iter().map(|role| role.as_str().to_owned()).collect(),
        group: config.node.isolation_group.clone(),
        http_url: config.http.advertise_url.clone().unwrap_or_default(),
        terminals_url: config.terminals.external_url.clone(),
    };
    match system.view() {
        Some(view) => Neighbours::of(me, &config.cluster.name, view),
        None => Neighbours::none(me),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_listens_everywhere_is_told_by_the_address_that_other_nodes_use() {
        let mut config = Config::default();
        config.cluster.listen = Some(address("0.0.0.0:7946"));
        config.cluster.advertise = Some(address("10.0.0.1:7946"));
        addresses(&mut config, address("0.0.0.0:8080"), Some(address("127.0.0.1:8081")));
        assert_eq!(config.http.advertise_url.as_deref(), Some("http://10.0.0.1:8080"));
        assert_eq!(config.terminals.external_url.as_deref(), Some("ws://127.0.0.1:8081"));
    }

    #[test]
    fn what_the_config_names_stays() {
        let mut config = Config::default();
        config.http.advertise_url = Some("https://a".to_owned());
        config.terminals.external_url = Some("wss://b".to_owned());
        addresses(&mut config, address("0.0.0.0:1"), Some(address("0.0.0.0:2")));
        assert_eq!(config.http.advertise_url.as_deref(), Some("https://a"));
        assert_eq!(config.terminals.external_url.as_deref(), Some("wss://b"));
    }

    #[test]
    fn a_cookie_is_read_only_for_a_cluster() {
        let mut config = Config::default();
        let environment = Environment::from_pairs([("CLARION_COOKIE", "0123456789abcdef")]);
        assert!(cookie(&config, &environment).unwrap().is_none());
        config.cluster.listen = Some(address("127.0.0.1:1"));
        assert!(cookie(&config, &environment).unwrap().is_some());
        assert!(cookie(&config, &Environment::default()).unwrap_err().mend.is_some());
    }
}
