//! A model that says what a script wants, behind the real chat template, tokenizer, engine and gateway: what a family
//! writes can be told without its weights.

use arc_swap::ArcSwap;
use novastack::clock::Clock;
use novastack::config::{Config, Model};
use novastack::engine::executor::{Executor, ExecutorError, Ticket};
use novastack::engine::kv::BLOCK_TOKENS;
use novastack::engine::plan::{PlannedSeq, SeqId, StepOutput, StepPlan};
use novastack::engine::worker::{EngineConfig, spawn};
use novastack::gateway::{
    self, Cors, GenerationDefaults, Grammars, LocalModel, Registry, Replicas, RequestConfig, Routing,
    ServerConfig,
};
use novastack::protocol::{ModelTasks, TokenId, TokenLogprob};
use novastack::text::{AnswerFormat, ChatTemplate, Tokenizer};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// From a rendered prompt to the raw text that the model writes.
pub type Script = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// The executor: it remembers the tokens of each slot, as a KV cache does, and follows the script.
struct Scripted {
    tokenizer: Arc<Tokenizer>,
    script: Script,
    slots: HashMap<u32, [TokenId; BLOCK_TOKENS]>,
    answers: HashMap<SeqId, Vec<TokenId>>,
    launched: Option<StepPlan>,
}

impl Scripted {
    fn write(&mut self, seq: &PlannedSeq) {
        for (i, token) in seq.tokens.iter().enumerate() {
            let position = seq.start as usize + i;
            let block = seq.blocks[position / BLOCK_TOKENS];
            self.slots.entry(block).or_default()[position % BLOCK_TOKENS] = *token;
        }
    }

    fn next(&mut self, seq: &PlannedSeq, output_index: usize) -> TokenId {
        if !self.answers.contains_key(&seq.seq) {
            let end = seq.start as usize + seq.tokens.len() - output_index;
            let token =
                |position: usize| self.slots[&seq.blocks[position / BLOCK_TOKENS]][position % BLOCK_TOKENS];
            let prompt: Vec<TokenId> = (0..end).map(token).collect();
            let prompt = self.tokenizer.decode(&prompt, false).expect("a prompt of the vocabulary");
            let answer = self.tokenizer.encode(&(self.script)(&prompt), false).expect("an answer");
            self.answers.insert(seq.seq, answer);
        }
        let end = self.tokenizer.eos_ids()[0];
        self.answers[&seq.seq].get(output_index).copied().unwrap_or(end)
    }
}

impl Executor for Scripted {
    fn launch(&mut self, plan: StepPlan) -> Result<Ticket, ExecutorError> {
        self.launched = Some(plan);
        Ok(Ticket(0))
    }

    fn collect(&mut self, _: Ticket) -> Result<StepOutput, ExecutorError> {
        let plan = self.launched.take().expect("a step was launched");
        let mut output = StepOutput::default();
        for seq in &plan.seqs {
            self.write(seq);
            if let Some(sample) = &seq.sample {
                let token = self.next(seq, sample.output_index as usize);
                output.sampled.push((seq.seq, TokenLogprob { token, logprob: -0.5, top: Vec::new() }));
            }
        }
        Ok(output)
    }
}

/// A gateway with one scripted model, `m`, in this process.
pub struct Served {
    /// `http://...`.
    pub url: String,
    _stop: tokio::sync::oneshot::Sender<()>,
}

/// Serves the script by this template.
pub async fn serve(tokenizer: Arc<Tokenizer>, template: ChatTemplate, script: Script) -> Served {
    let registry = Arc::new(Registry::new(["m".to_owned()]));
    let vocab = tokenizer.vocab_size();
    let config = EngineConfig {
        name: "m".into(),
        max_context: 1 << 18,
        kv_blocks: 1 << 15,
        max_running: 16,
        max_queued: 64,
        step_token_budget: 4096,
        vocab,
        cache_salt: 0,
    };
    let executor = Scripted {
        tokenizer: tokenizer.clone(),
        script,
        slots: HashMap::new(),
        answers: HashMap::new(),
        launched: None,
    };
    let engine = spawn(config, Box::new(executor), Clock::real()).expect("a thread").0;
    registry.set_ready(LocalModel {
        name: "m".into(),
        tasks: ModelTasks::GENERATION,
        engine: Replicas::new(vec![engine], 64),
        tokenizer: Some(tokenizer),
        answer_format: AnswerFormat::of_template(template.source()),
        grammars: Grammars::default(),
        template: Ok(Arc::new(template)),
        defaults: GenerationDefaults::default(),
        special_tokens_in_messages: false,
        vocab,
        created_unix_s: 0,
        root: "nowhere".into(),
    });
    let models = vec![Model::local("m".into(), "nowhere".into())];
    serve_models(registry, Config { models, default_model: Some("m".into()), ..Config::default() }).await
}

/// Serves models that are there by this configuration.
pub async fn serve_models(registry: Arc<Registry>, config: Config) -> Served {
    let server = ServerConfig {
        requests: RequestConfig {
            request_timeout: Duration::from_secs(300),
            total_timeout: Duration::from_secs(600),
            body_bytes_max: 32 << 20,
            text_timeout: Duration::from_secs(60),
            request_memory_bytes: 1 << 30,
            keep_alive: Duration::from_secs(5),
            admin_key_sha256: None,
            observers: gateway::Observers::default(),
        },
        head_timeout: Duration::from_secs(5),
        write_timeout: Duration::from_secs(60),
        connections: gateway::ConnectionLimits { in_all: 64, per_address: None },
        tls: None,
        workers: 2,
        drain_timeout: Duration::from_secs(1),
        cors: Cors::Off,
        allowed_hosts: Vec::new(),
    };
    let routing = Routing::new(config, &[], &registry).expect("a routing");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let routing = Arc::new(ArcSwap::from_pointee(routing));
    tokio::spawn(gateway::serve(listener, server, registry, routing, None, async {
        let _ = stopped.await;
    }));
    Served { url, _stop: stop }
}
