//! Models whose numbers are a function of their prompt, behind the real tokenizer, engine and gateway: what an endpoint
//! has made of a request can be read off its answer.

use crate::agents::scripted::{Served, serve_models};
use novastack::clock::Clock;
use novastack::config::{Config, Model};
use novastack::engine::executor::{Executor, ExecutorError, Ticket};
use novastack::engine::kv::BLOCK_TOKENS;
use novastack::engine::plan::{PlannedSeq, StepOutput, StepPlan};
use novastack::engine::worker::{EngineConfig, spawn};
use novastack::gateway::{GenerationDefaults, Grammars, LocalModel, Registry, Replicas};
use novastack::protocol::{EngineTasks, ModelTasks, Pooling, TokenId};
use novastack::text::{AnswerFormat, Tokenizer};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// From a prompt to what is wanted of it.
pub type Numbers = Arc<dyn Fn(&[TokenId], &Pooling) -> Vec<f32> + Send + Sync>;

/// A model to serve.
pub struct Fake {
    pub name: &'static str,
    pub tasks: ModelTasks,
    pub tokenizer: Option<Arc<Tokenizer>>,
    pub max_context: usize,
    pub max_queued: usize,
    /// How long a step takes.
    pub step: Duration,
    pub numbers: Numbers,
    /// Prompts that were computed to their end.
    pub computed: Arc<AtomicUsize>,
}

/// The executor: it remembers the tokens of each slot, as a KV cache does.
struct Pooled {
    numbers: Numbers,
    step: Duration,
    computed: Arc<AtomicUsize>,
    slots: HashMap<u32, [TokenId; BLOCK_TOKENS]>,
    launched: Option<StepPlan>,
}

impl Pooled {
    /// Writes a chunk; the whole prompt where it is the last.
    fn write(&mut self, seq: &PlannedSeq) -> Vec<TokenId> {
        for (i, token) in seq.tokens.iter().enumerate() {
            let position = seq.start as usize + i;
            let block = seq.blocks[position / BLOCK_TOKENS];
            self.slots.entry(block).or_default()[position % BLOCK_TOKENS] = *token;
        }
        let end = seq.start as usize + seq.tokens.len();
        let token =
            |position: usize| self.slots[&seq.blocks[position / BLOCK_TOKENS]][position % BLOCK_TOKENS];
        (0..end).map(token).collect()
    }
}

impl Executor for Pooled {
    fn launch(&mut self, plan: StepPlan) -> Result<Ticket, ExecutorError> {
        self.launched = Some(plan);
        Ok(Ticket(0))
    }

    fn collect(&mut self, _: Ticket) -> Result<StepOutput, ExecutorError> {
        let plan = self.launched.take().expect("a step was launched");
        std::thread::sleep(self.step);
        let mut output = StepOutput::default();
        for seq in &plan.seqs {
            let prompt = self.write(seq);
            if let Some(pooling) = &seq.pooling {
                self.computed.fetch_add(1, Ordering::SeqCst);
                output.pooled.push((seq.seq, (self.numbers)(&prompt, pooling)));
            }
        }
        Ok(output)
    }

    fn tasks(&self) -> EngineTasks {
        EngineTasks { generates: true, embeds: true, classifies: true }
    }
}

/// Serves all of them in this process.
pub async fn serve(models: Vec<Fake>) -> Served {
    serve_all(registry(models)).await
}

/// The same of models that are there.
pub async fn serve_all(registry: Arc<Registry>) -> Served {
    let names = registry.snapshot().iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let models = names.into_iter().map(|name| Model::local(name, "nowhere".into())).collect();
    serve_models(registry, Config { models, ..Config::default() }).await
}

/// All of them, ready.
pub fn registry(models: Vec<Fake>) -> Arc<Registry> {
    let names: Vec<String> = models.iter().map(|model| model.name.to_owned()).collect();
    let registry = Arc::new(Registry::new(names));
    for model in models {
        let Fake { name, tasks, tokenizer, max_context, max_queued, step, numbers, computed } = model;
        let vocab = tokenizer.as_ref().map_or(100, |tokenizer| tokenizer.vocab_size());
        let config = EngineConfig {
            name: name.into(),
            max_context,
            kv_blocks: 1 << 12,
            max_running: 16,
            max_queued,
            step_token_budget: 4096,
            vocab,
            cache_salt: 0,
        };
        let executor = Pooled { numbers, step, computed, slots: HashMap::new(), launched: None };
        let engine = spawn(config, Box::new(executor), Clock::real()).expect("a thread").0;
        registry.set_ready(LocalModel {
            name: name.into(),
            tasks,
            engine: Replicas::new(vec![engine], 256),
            tokenizer,
            answer_format: AnswerFormat::default(),
            grammars: Grammars::default(),
            template: Err("it has none".into()),
            defaults: GenerationDefaults::default(),
            special_tokens_in_messages: false,
            vocab,
            created_unix_s: 0,
            root: "nowhere".into(),
        });
    }
    registry
}
