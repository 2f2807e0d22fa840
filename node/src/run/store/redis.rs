//! The Redis store of a node: its settings out of the config, and what its errors say to mend.

use std::time::Duration;

use clarion_config::{Config, Environment, RedisMode as Mode};
use clarion_storage::StoreError;
use clarion_storage::redis::{RedisLogin, RedisMode, RedisSettings, RedisTls, Secret};

use crate::run::error::StartError;

/// What the config says of Redis, with the passwords.
pub(super) fn settings(
    config: &Config,
    environment: &Environment,
) -> Result<RedisSettings, StartError> {
    let secrets = config.redis_secrets(environment).map_err(|error| {
        StartError::new(format!("{}: {}", error.origin, error.reason)).mend(error.mend)
    })?;
    let store = &config.store;
    let mode = match store.redis_mode {
        Mode::Standalone => RedisMode::Standalone,
        Mode::Sentinel => RedisMode::Sentinel,
        Mode::Cluster => RedisMode::Cluster,
    };
    let login = |username: &Option<String>, password: Option<clarion_config::Secret>| RedisLogin {
        username: username.clone(),
        password: password.map(|password| Secret::new(password.expose())),
    };
    let defaults = RedisSettings::new(mode, &store.redis_nodes);
    Ok(RedisSettings {
        masters: store.redis_masters.clone(),
        login: login(&store.redis_username, secrets.password),
        sentinel_login: login(&store.redis_sentinel_username, secrets.sentinel_password),
        tls: store.redis_tls.then(|| RedisTls {
            ca_file: store.redis_tls_ca_file.clone(),
            cert_file: store.redis_tls_cert_file.clone(),
            key_file: store.redis_tls_key_file.clone(),
        }),
        prefix: store.redis_prefix.clone(),
        lanes: store.redis_lanes,
        timeout: Duration::from_millis(store.redis_timeout_ms),
        replicas_min: store.redis_replicas_min,
        check: store.redis_check,
        // The keys are shared with the embedded store, whose rounds are larger.
        queue_max: store.queue_max.min(defaults.queue_max),
        batch_max: store.batch_max.min(defaults.batch_max),
        terminal_retention_days: u64::from(config.session.terminal_retention_days),
        nonces_max: config.limits.nonces_max,
        ..defaults
    })
}

/// Where the store is, for people.
pub(super) fn place(config: &Config) -> String {
    let store = &config.store;
    let nodes = store.redis_nodes.join(", ");
    format!("Redis ({}) at {nodes}, prefix {:?}", store.redis_mode.as_str(), store.redis_prefix)
}

/// What to do about a store that does not open.
pub(super) fn not_opened(config: &Config, error: &StoreError) -> StartError {
    let start = StartError::new(format!("{}: {error}", place(config)));
    match error {
        StoreError::Fatal(_) => start.mend(
            "a new cluster: `clarion store init FILE`, once; after a restore: `clarion store \
             restored FILE`; `clarion doctor FILE` looks at every server",
        ),
        StoreError::Unavailable(_) | StoreError::Unknown(_) => start.mend(
            "start Redis, or correct `store.redis_nodes`, the password or TLS; `clarion doctor \
             FILE` looks at every server",
        ),
        StoreError::LogFull | StoreError::Full(_) | StoreError::TooLate => start,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clarion_config::Mode as For;

    use super::*;

    #[test]
    fn settings_are_what_the_config_says() {
        let environment = Environment::from_pairs([
            ("CLARION_ADMIN_TOKEN", "0123456789abcdef"),
            ("CLARION_REDIS_PASSWORD", "secret"),
        ]);
        let text = "[store]\nkind = \"redis\"\nredis_mode = \"sentinel\"\n\
            redis_nodes = [\"a:1\", \"b:2\"]\nredis_masters = [\"x\", \"y\"]\n\
            redis_username = \"clarion\"\nredis_tls = true\nredis_prefix = \"p\"\n\
            redis_lanes = 3\nredis_timeout_ms = 250\nredis_replicas_min = 2\nbatch_max = 7\n\
            [session]\nterminal_retention_days = 5\n";
        let config = Config::parse(Path::new("t"), text, &environment, For::Start).unwrap();
        let settings = settings(&config, &environment).unwrap();
        assert_eq!(settings.mode, RedisMode::Sentinel);
        assert_eq!(settings.nodes, ["a:1", "b:2"]);
        assert_eq!(settings.masters, ["x", "y"]);
        assert_eq!(settings.login.username.as_deref(), Some("clarion"));
        assert_eq!(settings.login.password, Some(Secret::new("secret")));
        assert_eq!(settings.sentinel_login, RedisLogin::default());
        assert_eq!(settings.tls, Some(RedisTls::default()));
        assert_eq!((settings.prefix.as_str(), settings.lanes), ("p", 3));
        assert_eq!(settings.timeout, Duration::from_millis(250));
        assert_eq!((settings.replicas_min, settings.batch_max), (2, 7));
        assert_eq!(settings.terminal_retention_days, 5);
        assert!(!place(&config).contains("secret"));
    }
}
