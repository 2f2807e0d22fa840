//! The HTTP API and the back-ends' WebSocket. A request goes this way, one stage a file:
//! `server` accepts the connection, `routes` is the table of all paths, `pipeline` carries each
//! request out (`auth`, then the body, then the handler named in the table) and `problem` answers
//! what was refused. The handlers only read the request, call the [`System`] and answer.
//!
//! [`System`]: clarion_actors::system::System

mod app;
mod asking;
mod auth;
mod body;
mod cluster;
mod docs;
mod health;
mod kept;
pub mod keys;
mod measures;
mod openapi;
mod pipeline;
mod problem;
mod products;
mod push;
mod push_link;
mod request;
mod request_id;
mod routes;
mod schemas;
mod server;
mod status;
mod terminals;
pub mod tls;
mod tokens;
mod topics;
mod upgrade;

pub use app::{AdminToken, MetricsRender};
pub use server::{HttpError, bind, serve};
