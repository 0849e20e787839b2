//! What is noted and told of an answered request, whatever was asked: who answered, why, after how many attempts, for
//! how many dollars.

use super::app::{App, RequestContext};
use crate::gateway::chat::{Dialect, TokenUsage};
use crate::gateway::ledger::account::Account;
use crate::gateway::ledger::cost;
use crate::gateway::route::fallback::Answered;
use crate::gateway::route::{Plan, Target};
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::rate_limit::insert_limits;
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use std::sync::Arc;

const MODEL: HeaderName = HeaderName::from_static("x-novastack-model");
const ROUTE: HeaderName = HeaderName::from_static("x-novastack-route");
const ARM: HeaderName = HeaderName::from_static("x-novastack-arm");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-novastack-attempts");
const COST: HeaderName = HeaderName::from_static("x-novastack-cost");

/// Notes who answers, or would have, and who was overtaken.
pub fn noted<T>(
    app: &App,
    context: &RequestContext,
    plan: &Plan,
    answered: Result<Answered<T>, ApiError>,
) -> Result<Answered<T>, ApiError> {
    let answering = answered.as_ref().ok().map(|answered| &answered.target).or(plan.targets.first());
    if let Some(target) = answering {
        context.names(&target.model.name);
    }
    if let Ok(Answered { target, hedged, .. }) = &answered {
        for slow in hedged {
            app.metrics.attempts().hedged(&slow.model.name, !Arc::ptr_eq(slow, target));
        }
    }
    answered
}

/// Names in a response's head what is known before anybody has answered.
pub fn tell_plan(plan: &Plan, account: &Account, dialect: Dialect, response: &mut Response) {
    tell(response, ROUTE, &plan.route);
    plan.arm.iter().for_each(|arm| tell(response, ARM, arm));
    insert_limits(response, &account.bill.states(), dialect);
}

/// Names who has answered, after how many attempts.
pub fn tell_target(target: &Target, attempts: u32, response: &mut Response) {
    tell(response, MODEL, &target.model.name);
    response.headers_mut().insert(ATTEMPTS, attempts.into());
}

fn tell(response: &mut Response, header: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(header, value);
    }
}

/// Names what the answer cost, where the model has a price and the usage is known.
pub fn with_cost(mut response: Response, target: &Target, usage: Option<&TokenUsage>) -> Response {
    if let (Some(price), Some(usage)) = (target.price(), usage)
        && let Ok(value) = HeaderValue::try_from(format!("{:.9}", cost::cost(&price, usage)))
    {
        response.headers_mut().insert(COST, value);
    }
    response
}
