//! The stages of every request, in order: id, path, credential, body, the rest of the credential,
//! query, handler; then its answer is marked, measured and logged. Nothing is spawned.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter};
use clarion_protocol::{Code, ProductId};
use tokio::time::timeout;
use tracing::Instrument as _;

use super::app::App;
use super::kept::Kept;
use super::measures::Measures;
use super::problem::{Answer, Refusal};
use super::request::{Call, Params, Query};
use super::request_id::{RequestId, X_REQUEST_ID};
use super::routes::{ROUTES, Route};
use super::{auth, body};

/// The router of all [`ROUTES`]. What fits none of them is answered like everything else.
pub(super) fn router(app: App) -> Router {
    let mut router = Router::new();
    let mut done: Vec<&'static str> = Vec::new();
    for path in ROUTES.iter().map(|route| route.path) {
        if done.contains(&path) {
            continue;
        }
        done.push(path);
        router = router.route(path, methods(path));
    }
    router
        .fallback(|State(_): State<App>, request: Request| async move {
            unrouted(None, &request, Code::NotFound.into())
        })
        .with_state(app)
}

fn methods(path: &'static str) -> MethodRouter<App> {
    let mut methods = MethodRouter::new();
    let mut allow = Vec::new();
    for (at, route) in ROUTES.iter().enumerate().filter(|(_, route)| route.path == path) {
        let Ok(filter) = MethodFilter::try_from(route.method.clone()) else { continue };
        allow.push(route.method.as_str());
        if route.method == Method::GET {
            allow.push(Method::HEAD.as_str());
        }
        methods = methods.on(filter, move |State(app): State<App>, request: Request| {
            carry_out(at, route, app, request)
        });
    }
    let allow = HeaderValue::from_str(&allow.join(", ")).unwrap_or(HeaderValue::from_static(""));
    methods.fallback(move |State(_): State<App>, request: Request| async move {
        unrouted(Some(path), &request, Refusal::method_not_allowed(allow))
    })
}

fn unrouted(path: Option<&'static str>, request: &Request, refusal: Refusal) -> Response {
    let id = RequestId::of(request.headers());
    let mut response = refusal.into_response(&id);
    response.headers_mut().insert(X_REQUEST_ID, id.header());
    Measures::unrouted(path, request.method(), response.status().as_u16());
    let status = response.status().as_u16();
    tracing::debug!(id = id.as_str(), status, "a request fits no route");
    response
}

async fn carry_out(at: usize, route: &'static Route, app: App, request: Request) -> Response {
    let began = Instant::now();
    let (parts, body) = request.into_parts();
    let id = RequestId::of(&parts.headers);
    let span = tracing::info_span!("request", id = id.as_str());
    async {
        let (mut product, mut refused) = (None, None);
        let mut response = match stages(route, &app, parts, body, &id).await {
            Ok((served, answer)) => {
                product = served;
                answer.unwrap_or_else(|refusal| {
                    refused = Some(refusal.code());
                    refusal.into_response(&id)
                })
            }
            Err(refusal) => {
                refused = Some(refusal.code());
                refusal.into_response(&id)
            }
        };
        response.headers_mut().insert(X_REQUEST_ID, id.header());
        let status = response.status().as_u16();
        let took = began.elapsed();
        app.measures.answered(at, status, took);
        log(route, product.as_ref().map(ProductId::as_str), status, refused, took);
        response
    }
    .instrument(span)
    .await
}

type Served = (Option<ProductId>, Answer);

async fn stages(
    route: &Route,
    app: &App,
    mut parts: Parts,
    body: axum::body::Body,
    id: &RequestId,
) -> Result<Served, Refusal> {
    if let Some(role) = route.role()
        && !app.config.node.roles.contains(&role)
    {
        let role = role.as_str();
        let detail = format!("node {} has not the role {role}", app.config.node.id);
        return Err((Code::NotServedHere, detail).into());
    }
    let params = Params::of(&mut parts).await?;
    if route.body.is_some() {
        body::check_content_type(&parts.headers, &body)?;
    }
    let caller = auth::authenticate(route.access, app, &parts, &params).await?;
    let body = body::read(body, app.config.limits.body_bytes_max, app.request_timeout).await?;
    let proven = caller.complete(app, &body).await?;
    let query = Query::parse(parts.uri.query(), route.query)?;
    let served = proven.product.as_ref().map(|record| record.product.clone());
    let call = Call { app: Arc::clone(app), parts, params, query, body, proven, id: id.clone() };
    let keeper = (route.method != Method::GET).then(|| app.keeper.clone());
    // The node's own deadlines are shorter; this is for a part that hangs.
    let answer = match timeout(app.request_timeout, Kept::new((route.run)(call), keeper)).await {
        Ok(answer) => answer,
        Err(_) => Err(route.on_timeout().into()),
    };
    Ok((served, answer))
}

/// One line a request: never a body, a header or a query.
fn log(
    route: &Route,
    product: Option<&str>,
    status: u16,
    refused: Option<Code>,
    took: std::time::Duration,
) {
    let (method, path) = (route.method.as_str(), route.path);
    let code = refused.map(Code::as_str);
    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    if status >= 500 {
        tracing::info!(method, route = path, status, code, took_us, product, "request");
    } else {
        tracing::debug!(method, route = path, status, code, took_us, product, "request");
    }
}
