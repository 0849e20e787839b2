//! An executor without a model. Its "KV cache" holds the token and the position that were written
//! to each slot, and its next token is a hash of the sequence as read back through the block
//! table: any mistake in tables, prefix sharing or preemption changes the output, and most are
//! caught on the spot.

use super::rng::mix;
use novastack::engine::executor::{Executor, ExecutorError, Ticket};
use novastack::engine::kv::BLOCK_TOKENS;
use novastack::engine::plan::{PlannedSeq, SeqId, StepOutput, StepPlan};
use novastack::protocol::{FinishReason, SamplingParams, TokenId, TokenLogprob};
use std::collections::{HashMap, HashSet};

pub const VOCAB: u32 = 64;
/// The only stop token of these tests.
pub const STOP: TokenId = 0;

/// The "model": the next token of a sequence.
pub fn next_token(history: &[TokenId], params: &SamplingParams, choice: u32, output_index: u32) -> TokenId {
    let mut h = mix(params.seed ^ (u64::from(choice) << 32));
    for token in history {
        h = mix(h ^ u64::from(*token));
    }
    let token = (h % u64::from(VOCAB)) as TokenId;
    if output_index < params.min_tokens && params.stop_tokens.contains(&token) { 1 } else { token }
}

/// The token that a mask leaves in place of this one: the next that may come.
pub fn allowed(token: TokenId, mask: &[u32]) -> TokenId {
    let mut following = (0..VOCAB).map(|i| (token + i) % VOCAB);
    following.find(|t| mask[*t as usize / 32] >> (t % 32) & 1 == 1).expect("a mask with a token")
}

/// The "model's" score of a prompt token after those before it.
fn score(history: &[TokenId], target: TokenId) -> TokenLogprob {
    let h = history.iter().fold(1, |h, token| mix(h ^ u64::from(*token)));
    let logprob = -((h ^ u64::from(target)) as u16 as f32);
    TokenLogprob { token: target, logprob, top: Vec::new() }
}

/// What a choice gives when it runs alone.
pub fn alone(
    prompt: &[TokenId],
    params: &SamplingParams,
    choice: u32,
    capacity: usize,
) -> (Vec<TokenId>, FinishReason) {
    let mut history = prompt.to_vec();
    for index in 0.. {
        let token = next_token(&history, params, choice, index);
        history.push(token);
        if params.stop_tokens.contains(&token) {
            return (history.split_off(prompt.len()), FinishReason::Stop);
        }
        if index + 1 == params.max_tokens || history.len() == capacity {
            return (history.split_off(prompt.len()), FinishReason::Length);
        }
    }
    unreachable!()
}

/// What a prompt's scores are.
pub fn scores(prompt: &[TokenId]) -> Vec<Option<TokenLogprob>> {
    let scored = (1..prompt.len()).map(|i| Some(score(&prompt[..i], prompt[i])));
    std::iter::once(None).chain(scored).collect()
}

/// The executor; also used without the trait, step by step.
#[derive(Debug, Default)]
pub struct Fake {
    /// What the slots of a block hold: token and position.
    pub slots: HashMap<u32, [Option<(TokenId, u32)>; BLOCK_TOKENS]>,
    /// What was sampled for a sequence, to be compared with what it brings back.
    pub sampled: HashMap<SeqId, Vec<TokenId>>,
    /// By `params.seed`: whose prompt a sequence must have.
    pub prompts: HashMap<u64, Vec<TokenId>>,
    /// By `params.seed`: whose cached prompts a sequence may share. Without an entry: those of salt 0.
    pub salts: HashMap<u64, u64>,
    /// The salt of who wrote a block last.
    pub written_for: HashMap<u32, u64>,
    /// The step in flight.
    pub launched: Option<StepPlan>,
    /// Steps launched.
    pub tickets: u64,
    /// Fail the launch of this step, counted from 0.
    pub fail_launch: Option<u64>,
    /// Fail the collection of this step, counted from 0.
    pub fail_collect: Option<u64>,
    /// Panic in the collection of this step, counted from 0.
    pub panic_collect: Option<u64>,
    /// Requests (by `params.seed`) whose logits are not finite from this output token on.
    pub broken: HashMap<u64, u32>,
    /// When given, each step waits for a message here.
    pub gate: Option<std::sync::mpsc::Receiver<()>>,
}

impl Fake {
    pub fn step(&mut self, plan: &StepPlan) -> StepOutput {
        self.check_tables(plan);
        for seq in &plan.seqs {
            self.write(seq);
        }
        let mut output = StepOutput::default();
        for seq in &plan.seqs {
            let history = self.read(seq);
            let broken = self.broken.get(&seq.params.seed);
            if seq.sample.as_ref().zip(broken).is_some_and(|(spec, from)| spec.output_index >= *from) {
                output.broken.push(seq.seq);
                continue;
            }
            if !seq.prompt_targets.is_empty() {
                let start = seq.start as usize;
                let scored = seq.prompt_targets.iter().enumerate();
                let scored = scored.map(|(i, target)| score(&history[..start + i + 1], *target)).collect();
                output.prompt_logprobs.push((seq.seq, scored));
            }
            if let Some(spec) = &seq.sample {
                let token = next_token(&history, &seq.params, spec.choice, spec.output_index);
                let token = match spec.mask.as_ref().map(|mask| mask.wait()).transpose() {
                    Ok(mask) => mask.flatten().map_or(token, |mask| allowed(token, &mask)),
                    Err(reason) => {
                        output.failed.push((seq.seq, reason));
                        continue;
                    }
                };
                // A sequence that another engine has begun brings its output along.
                let prompt_len = self.prompts[&seq.params.seed].len();
                let before = self.sampled.entry(seq.seq).or_insert_with(|| history[prompt_len..].to_vec());
                assert_eq!(before.len(), spec.output_index as usize, "output index of {:?}", seq.seq);
                before.push(token);
                output.sampled.push((seq.seq, TokenLogprob { token, logprob: 0.0, top: Vec::new() }));
            }
        }
        output
    }

    /// Each sequence once; nobody writes to a block that another sequence of the step has.
    fn check_tables(&self, plan: &StepPlan) {
        let mut seqs = HashSet::new();
        let mut owners: HashMap<u32, usize> = HashMap::new();
        for seq in &plan.seqs {
            assert!(seqs.insert(seq.seq), "{:?} is planned twice", seq.seq);
            assert!(!seq.tokens.is_empty(), "{:?} is planned without tokens", seq.seq);
            let end = seq.start as usize + seq.tokens.len();
            assert_eq!(seq.blocks.len(), end.div_ceil(BLOCK_TOKENS), "table of {:?}", seq.seq);
            for block in &seq.blocks {
                *owners.entry(*block).or_default() += 1;
            }
        }
        for seq in &plan.seqs {
            for block in &seq.blocks[seq.start as usize / BLOCK_TOKENS..] {
                assert_eq!(owners[block], 1, "{:?} writes to shared block {block}", seq.seq);
            }
        }
    }

    fn salt(&self, seq: &PlannedSeq) -> u64 {
        self.salts.get(&seq.params.seed).copied().unwrap_or(0)
    }

    fn write(&mut self, seq: &PlannedSeq) {
        let salt = self.salt(seq);
        for (i, token) in seq.tokens.iter().enumerate() {
            let position = seq.start as usize + i;
            let block = seq.blocks[position / BLOCK_TOKENS];
            self.written_for.insert(block, salt);
            let slots = self.slots.entry(block).or_default();
            slots[position % BLOCK_TOKENS] = Some((*token, position as u32));
        }
    }

    /// The sequence as its blocks have it, which must be as the request has it.
    fn read(&self, seq: &PlannedSeq) -> Vec<TokenId> {
        let end = seq.start as usize + seq.tokens.len();
        for block in &seq.blocks {
            assert_eq!(self.written_for[block], self.salt(seq), "{:?} reads another tenant's block", seq.seq);
        }
        let history: Vec<TokenId> = (0..end)
            .map(|position| {
                let slot = self.slots[&seq.blocks[position / BLOCK_TOKENS]][position % BLOCK_TOKENS];
                let (token, at) = slot.unwrap_or_else(|| panic!("{:?} reads an unwritten slot", seq.seq));
                assert_eq!(at as usize, position, "{:?} reads another position", seq.seq);
                token
            })
            .collect();
        let prompt = &self.prompts[&seq.params.seed];
        let sampled = match self.sampled.get(&seq.seq) {
            Some(sampled) => sampled.as_slice(),
            None => history.get(prompt.len()..).unwrap_or_default(),
        };
        let expected: Vec<TokenId> = prompt.iter().chain(sampled).copied().take(end).collect();
        assert_eq!(history, expected, "the blocks of {:?} hold another sequence", seq.seq);
        history
    }
}

impl Executor for Fake {
    fn launch(&mut self, plan: StepPlan) -> Result<Ticket, ExecutorError> {
        assert!(self.launched.is_none(), "two steps in flight");
        if self.fail_launch == Some(self.tickets) {
            return Err(ExecutorError("the device refused the step".into()));
        }
        self.launched = Some(plan);
        self.tickets += 1;
        Ok(Ticket(self.tickets - 1))
    }

    fn collect(&mut self, ticket: Ticket) -> Result<StepOutput, ExecutorError> {
        let plan = self.launched.take().expect("a step was launched");
        if let Some(gate) = &self.gate {
            // A closed gate lets everything through.
            let _ = gate.recv();
        }
        if self.fail_collect == Some(ticket.0) {
            return Err(ExecutorError("the device was lost".into()));
        }
        assert!(self.panic_collect != Some(ticket.0), "a bug in the executor");
        Ok(self.step(&plan))
    }
}
