//! What handlers share ([`App`]), and what is known of a request before its handler sees it.

use super::scrape::{Engines, Gauges};
use crate::config::Limits;
use crate::engine::handle::SubmitError;
use crate::gateway::chat::responses::store::{Bounds, ResponseStore};
use crate::gateway::ledger::account::{self, Account, Attempt, Bill};
use crate::gateway::ledger::auth::{Tenant, Viewer};
use crate::gateway::ledger::demand::Demand;
use crate::gateway::ledger::limit::{Estimate, Holder, Id, LimitKind, Limiter, Now, Refusal, Reservation};
use crate::gateway::ledger::metrics::Metrics;
use crate::gateway::ledger::observe::{Observed, Observers};
use crate::gateway::route::{self, Asked, Plan, Routing, Target};
use crate::gateway::target::registry::{LocalModel, ModelState, Registry};
use crate::gateway::target::text_queue::TextQueue;
use crate::gateway::wire::bounds::{self, Phase};
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::fields::BadField;
use crate::gateway::wire::request_memory::RequestMemory;
use crate::store::{Recorder, Store, StoreError};
use arc_swap::ArcSwap;
use axum::http::HeaderMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// What each request is held to, and who is told of it.
#[derive(Clone)]
pub struct RequestConfig {
    /// How long nothing of an answer may come: from the request's head to the answer's first part, and between two.
    pub request_timeout: Duration,
    /// From a request's head to its last byte.
    pub total_timeout: Duration,
    /// Largest request body.
    pub body_bytes_max: usize,
    /// How long a request's template and tokenizer may take.
    pub text_timeout: Duration,
    /// Memory for the bodies of all requests, and for what upstreams answer, together.
    pub request_memory_bytes: usize,
    /// Silence in a stream after which a comment is sent.
    pub keep_alive: Duration,
    /// SHA-256 of the admin key; None: there is no admin API.
    pub admin_key_sha256: Option<[u8; 32]>,
    /// Who wants to know of requests.
    pub observers: Observers,
}

/// What handlers share.
pub struct App {
    pub(in crate::gateway) config: RequestConfig,
    pub(in crate::gateway) registry: Arc<Registry>,
    pub(in crate::gateway) metrics: Metrics,
    pub(in crate::gateway) text: TextQueue,
    pub(in crate::gateway) responses: Mutex<ResponseStore>,
    pub(in crate::gateway) memory: Arc<RequestMemory>,
    pub(in crate::gateway) routing: Arc<ArcSwap<Routing>>,
    pub(in crate::gateway) store: Option<Arc<Store>>,
    pub(in crate::gateway) recorder: Option<Recorder>,
    pub(in crate::gateway) limiter: Arc<Limiter>,
    pub(in crate::gateway) phase: watch::Sender<Phase>,
    pub(in crate::gateway) in_flight: watch::Sender<usize>,
}

/// A request being answered; clones count once.
#[derive(Clone)]
pub struct InFlight {
    _guard: Arc<InFlightGuard>,
}

struct InFlightGuard(watch::Sender<usize>);

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// What is known of a request before its handler sees it.
#[derive(Clone)]
pub struct RequestContext {
    /// The caller's `x-request-id`, or one of ours.
    pub id: String,
    /// When it arrived.
    pub arrived: Instant,
    /// Lives as long as the request does.
    pub in_flight: InFlight,
    /// Whose it is.
    pub tenant: Arc<Tenant>,
    /// The served model that it names, once known; a label of metrics.
    pub(in crate::gateway) model: Arc<OnceLock<String>>,
    /// Where somebody wants to know of it.
    pub(in crate::gateway) observed: Option<Arc<Observed>>,
}

impl RequestContext {
    /// It is about this model; only the first call counts.
    pub fn names(&self, model: &str) {
        let _ = self.model.set(model.to_owned());
    }
}

impl App {
    pub(in crate::gateway) fn new(
        config: RequestConfig,
        registry: Arc<Registry>,
        routing: Arc<ArcSwap<Routing>>,
        store: Option<Arc<Store>>,
    ) -> io::Result<Self> {
        let limiter =
            account::limiter(store.as_deref(), routing.load().config()).map_err(io::Error::other)?;
        let limiter = Arc::new(limiter);
        if let (Some(store), Limiter::Memory(_)) = (&store, &*limiter) {
            // A shared count has what was reserved for it.
            let counts = limiter.clone();
            store.on_interrupted(move |record| {
                let ids = [Id::Key(&record.key), Id::Model(&record.model)];
                counts.correct(&ids, record.cost, record.unix_ms / 1000);
            });
        }
        let recorder = store.as_ref().map(|store| store.recorder());
        let in_flight = watch::Sender::new(0);
        let memory = RequestMemory::new(config.request_memory_bytes);
        let gauges = Gauges {
            routing: routing.clone(),
            recorder: recorder.clone(),
            observers: config.observers.clone(),
            in_flight: in_flight.subscribe(),
            memory: memory.clone(),
        };
        Ok(Self {
            routing,
            store,
            recorder,
            metrics: Metrics::new(limiter.counters()).with(Engines(registry.clone())).with(gauges),
            limiter,
            text: TextQueue::new(config.text_timeout),
            responses: Mutex::new(ResponseStore::new(Bounds::default())),
            memory: memory.clone(),
            phase: watch::Sender::new(Phase::Running),
            in_flight,
            config,
            registry,
        })
    }

    /// New requests are refused.
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() != Phase::Running
    }

    pub(in crate::gateway) fn begin(&self) -> InFlight {
        self.in_flight.send_modify(|count| *count += 1);
        InFlight { _guard: Arc::new(InFlightGuard(self.in_flight.clone())) }
    }

    /// What bounds this request's time and memory.
    pub fn bounds(&self, context: &RequestContext) -> bounds::RequestBounds {
        let (silence, total) = (self.config.request_timeout, self.config.total_timeout);
        let begun = tokio::time::Instant::from_std(context.arrived);
        let bounds = bounds::RequestBounds::new(begun, silence, total, self.phase.subscribe());
        bounds.with_memory(self.memory.clone())
    }

    /// What requests are routed by now.
    pub fn routing(&self) -> Arc<Routing> {
        self.routing.load_full()
    }

    /// Counts a request that uses no tokens under its key's limits.
    ///
    /// # Errors
    /// The key is over a limit.
    pub async fn admit(&self, context: &RequestContext) -> Result<Option<Reservation>, ApiError> {
        let routing = self.routing();
        let reserved = self.reserve(context, &routing, Estimate::default()).await;
        reserved.map_err(|refusal| self.refused(&refusal))
    }

    /// What a caller is told who is over a limit of his key.
    fn refused(&self, refusal: &Refusal) -> ApiError {
        self.metrics.attempts().refused("key", refusal.kind);
        ApiError::from(refusal)
    }

    /// Under the limits of the request's key, where it has some.
    async fn reserve(
        &self,
        context: &RequestContext,
        routing: &Routing,
        estimate: Estimate,
    ) -> Result<Option<Reservation>, Box<Refusal>> {
        let tenant = &context.tenant;
        let limits = tenant.limits.as_ref().unwrap_or(&routing.config().limits);
        if *limits == Limits::default() && tenant.credit.is_none() {
            return Ok(None);
        }
        let holder = Holder { id: Id::Key(&tenant.name), limits, credit: tenant.credit };
        let reserved = self.limiter.reserve(&[holder], estimate, Now::read()).await;
        reserved.map(Some)
    }

    /// Reserves what a request for these targets may use under its key's limits. Where that is more than
    /// the key has left, those that cost more than the first are dropped from the plan. Attempts are
    /// recorded under the account.
    ///
    /// # Errors
    /// The key is over a limit.
    pub async fn account(
        &self,
        context: &RequestContext,
        plan: &mut Plan,
        asked: &Asked<'_>,
    ) -> Result<Account, ApiError> {
        self.account_of(context, plan, asked, Demand::of(asked.body)).await
    }

    /// The same for a request that demands this.
    ///
    /// # Errors
    /// The key is over a limit.
    pub async fn account_of(
        &self,
        context: &RequestContext,
        plan: &mut Plan,
        asked: &Asked<'_>,
        demand: Demand,
    ) -> Result<Account, ApiError> {
        let routing = self.routing();
        let tenant = &context.tenant;
        context.observed.iter().for_each(|observed| observed.is_planned(&plan.route, asked.body));
        let counts = asked.counts;
        let estimate =
            |target: &Arc<Target>| account::estimate(counts.held(target), &demand, target.price().as_deref());
        let mut each: Vec<Estimate> = plan.targets.iter().map(estimate).collect();
        let all = account::estimate_of_all(&each, plan.is_hedged());
        let mut reserved = self.reserve(context, &routing, all).await;
        if let (Err(refusal), Some(first)) = (&reserved, each.first().copied())
            && !matches!(refusal.kind, LimitKind::RequestsPerMinute | LimitKind::Concurrency)
            && all != first
        {
            let fits = |it: &Estimate| it.tokens <= first.tokens && it.dollars <= first.dollars;
            let mut fitting = each.iter().map(fits);
            plan.targets.retain(|_| fitting.next().unwrap_or(false));
            if plan.is_hedged() {
                plan.targets.truncate(1);
            }
            each.truncate(1);
            reserved = self.reserve(context, &routing, account::estimate_of_all(&each, false)).await;
        }
        let bill = reserved.map_err(|refusal| self.refused(&refusal))?.map_or_else(Bill::default, Bill::of);
        Ok(Account {
            request_id: context.id.clone(),
            key: tenant.name.clone(),
            route: plan.route.clone(),
            arm: plan.arm.clone(),
            task: route::named_task(asked).unwrap_or_default().into_owned(),
            tags: Account::tags(asked.body),
            input_estimate: counts.estimate,
            input_held: counts.estimate_held(),
            input_max: counts.most,
            demand,
            metrics: self.metrics.attempts().clone(),
            recorder: self.recorder.clone(),
            limiter: self.limiter.clone(),
            bill: Arc::new(bill),
            observed: context.observed.clone(),
        })
    }

    /// The one attempt of a request that names one of our models.
    ///
    /// # Errors
    /// The key, or the model, is over a limit.
    pub async fn attempt(
        &self,
        context: &RequestContext,
        name: &str,
        asked: &Asked<'_>,
    ) -> Result<Option<Attempt>, ApiError> {
        let routing = self.routing();
        let Some(target) = routing.target(name) else { return Ok(None) };
        let mut plan = Plan { targets: vec![target.clone()], route: name.to_owned(), arm: None };
        let account = self.account(context, &mut plan, asked).await?;
        account
            .attempt(&target.books, target.price(), 1)
            .await
            .map(Some)
            .map_err(|refusal| ApiError::from(&*refusal))
    }

    /// Our model of that name or alias, if it can serve.
    pub fn model(&self, name: &str, context: &RequestContext) -> Result<Arc<LocalModel>, ApiError> {
        let routing = self.routing();
        // First: who may not ask for a name does not learn whether it is one.
        routing.check_allowed(name, &context.tenant)?;
        let Some(target) = routing.target(name) else {
            return Err(ApiError::unknown_model(name, &routing.names_for(&context.tenant)));
        };
        let name = &target.model.name;
        context.names(name);
        match target.upstream {
            None => self.engine(name),
            Some(_) => Err(ApiError::not_local(name)),
        }
    }

    /// Our model of exactly that name, if it can serve.
    pub fn engine(&self, name: &str) -> Result<Arc<LocalModel>, ApiError> {
        match self.registry.get(name) {
            None => Err(ApiError::model_failed(name, "is none that the server was started with")),
            Some(ModelState::Loading) => Err(ApiError::model_loading(name)),
            Some(ModelState::Failed(_)) => {
                Err(ApiError::model_failed(name, "could not be loaded; the server's log says why"))
            }
            Some(ModelState::Ready(model)) => match model.engine.failure() {
                Some(reason) => Err(ApiError::from(SubmitError::Stopped(reason)).at("model")),
                None => Ok(model),
            },
        }
    }

    /// What somebody with these headers may see of the server.
    pub fn viewer(&self, headers: &HeaderMap) -> Viewer {
        let admin = self.config.admin_key_sha256.as_ref();
        self.routing.load().keys().viewer(headers, self.store.as_deref(), admin)
    }

    /// The model of that name; without a name, the only one there is for this key.
    pub fn model_or_only(
        &self,
        name: Option<&str>,
        context: &RequestContext,
    ) -> Result<Arc<LocalModel>, ApiError> {
        if let Some(name) = name {
            return self.model(name, context);
        }
        let (routing, models) = (self.routing(), self.registry.snapshot());
        let is_allowed = |name: &&String| routing.check_allowed(name, &context.tenant).is_ok();
        let allowed: Vec<&String> = models.iter().map(|(name, _)| name).filter(is_allowed).collect();
        match allowed.as_slice() {
            [only] => self.model(only, context),
            [] => Err(BadField::missing("model", "this key is for no model that could be meant").into()),
            _ => Err(BadField::missing("model", "several models are served").into()),
        }
    }
}

/// The store waits for a disk: not on the async threads.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(ApiError::internal("the store panicked")),
    }
}
