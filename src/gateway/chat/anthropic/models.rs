//! What Claude models take, by the beginnings of their names. One that is not listed is newer than this list, and is sent
//! what all since Claude 4.6 take; other makers' models behind Anthropic's format are nobody's to judge here: they are
//! sent what the caller says.
//!
//! Where it stands, below <https://platform.claude.com/docs/en/>: thinking in `build-with-claude/extended-thinking` and
//! `adaptive-thinking`, and whose cannot be turned off in `models/overview` and the models' migration guides; `effort`,
//! `structured-outputs`, `mid-conversation-system-messages` and `fast-mode` in `build-with-claude`; parameters of sampling in
//! `about-claude/models/migration-guide`. Read in November 2026. Where the pages leave it open, or others report
//! otherwise, a row has what is taken either way, and says so.

/// How a model thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Thinks {
    /// Not at all.
    Never,
    /// With a budget.
    Budget,
    /// With a budget, or as much as it likes.
    Either,
    /// As much as it likes: a budget is refused.
    Adaptive,
}

/// Words for `output_config.effort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Effort {
    /// None: the field is refused.
    None,
    /// low, medium, high.
    High,
    /// And max.
    Max,
    /// And xhigh.
    Xhigh,
}

impl Effort {
    /// A caller's word as far as a model goes; None where it takes none.
    pub fn word(self, word: &str) -> Option<&str> {
        match word {
            _ if self == Self::None => None,
            "minimal" => Some("low"),
            "xhigh" if self < Self::Xhigh => Some("high"),
            "max" if self < Self::Max => Some("high"),
            word => Some(word),
        }
    }
}

/// How a model is told not to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Off {
    /// In words.
    Disabled,
    /// By nothing: it thinks where it is asked to, and may refuse the words.
    Unsaid,
    /// It cannot be: it thinks as little as it can, and refuses the words.
    Never,
}

/// What a Claude model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct ClaudeModel {
    pub thinks: Thinks,
    pub off: Off,
    pub effort: Effort,
    /// A schema for the whole answer, `output_config.format`.
    pub format: bool,
    /// `temperature`, `top_p` and `top_k`.
    pub sampling: bool,
    /// Messages with the role `system` among the others.
    pub late_system: bool,
    /// `speed: fast`.
    pub fast: bool,
}

/// One from before Claude 4.7.
const fn model(thinks: Thinks, effort: Effort, format: bool) -> ClaudeModel {
    let (off, sampling) = (Off::Disabled, true);
    ClaudeModel { thinks, off, effort, format, sampling, late_system: false, fast: false }
}

/// One since then.
const fn adaptive(off: Off, effort: Effort) -> ClaudeModel {
    ClaudeModel { off, sampling: false, ..model(Thinks::Adaptive, effort, true) }
}

/// That takes messages of the system anywhere, as all since Opus 4.8 but Sonnet 5.
const fn late_system(model: ClaudeModel) -> ClaudeModel {
    ClaudeModel { late_system: true, ..model }
}

const fn fast(model: ClaudeModel) -> ClaudeModel {
    ClaudeModel { fast: true, ..model }
}

/// What is newer than the list.
const UNKNOWN: ClaudeModel = adaptive(Off::Never, Effort::Max);

/// The first row whose beginning fits counts.
const MODELS: [(&str, ClaudeModel); 26] = [
    ("claude-2", model(Thinks::Never, Effort::None, false)),
    ("claude-instant", model(Thinks::Never, Effort::None, false)),
    ("claude-3-7", model(Thinks::Budget, Effort::None, false)),
    ("claude-3", model(Thinks::Never, Effort::None, false)),
    ("claude-opus-4-0", model(Thinks::Budget, Effort::None, false)),
    ("claude-opus-4-2025", model(Thinks::Budget, Effort::None, false)),
    ("claude-sonnet-4-0", model(Thinks::Budget, Effort::None, false)),
    ("claude-sonnet-4-2025", model(Thinks::Budget, Effort::None, false)),
    // A schema was taken in the beta alone: it is among the models of that, and not among those since.
    ("claude-opus-4-1", model(Thinks::Budget, Effort::None, false)),
    ("claude-sonnet-4-5", model(Thinks::Budget, Effort::None, true)),
    ("claude-haiku-4-5", model(Thinks::Budget, Effort::None, true)),
    ("claude-opus-4-5", model(Thinks::Budget, Effort::High, true)),
    ("claude-opus-4-6", model(Thinks::Either, Effort::Max, true)),
    ("claude-sonnet-4-6", model(Thinks::Either, Effort::Max, true)),
    // Amazon's page says that it refuses `disabled`; without a word it does not think.
    ("claude-opus-4-7", adaptive(Off::Unsaid, Effort::Xhigh)),
    ("claude-opus-4-8", fast(late_system(adaptive(Off::Unsaid, Effort::Xhigh)))),
    ("claude-mythos-preview", adaptive(Off::Never, Effort::Max)),
    ("claude-fable-5-2", fast(late_system(adaptive(Off::Never, Effort::Xhigh)))),
    ("claude-mythos-5-2", fast(late_system(adaptive(Off::Never, Effort::Xhigh)))),
    ("claude-fable-5", late_system(adaptive(Off::Never, Effort::Xhigh))),
    ("claude-mythos-5", late_system(adaptive(Off::Never, Effort::Xhigh))),
    ("claude-opus-5-5", fast(late_system(adaptive(Off::Never, Effort::Xhigh)))),
    ("claude-opus-5", fast(late_system(adaptive(Off::Disabled, Effort::Xhigh)))),
    // It thinks always, through some gateways at least.
    ("claude-sonnet-5-5", late_system(adaptive(Off::Never, Effort::Xhigh))),
    // Whether it takes late messages of the system is told both ways.
    ("claude-sonnet-5", adaptive(Off::Disabled, Effort::Xhigh)),
    ("claude-haiku-5-5", late_system(adaptive(Off::Disabled, Effort::Xhigh))),
];

/// What a model takes; None for another maker's. `anthropic/claude-...` and the like are Claude models.
pub(in super::super) fn claude(model: &str) -> Option<ClaudeModel> {
    let name = model[model.find("claude")?..].replace('.', "-");
    let known = MODELS.iter().find(|(beginning, _)| name.starts_with(beginning));
    Some(known.map_or(UNKNOWN, |(_, model)| *model))
}

/// Betas of the header `anthropic-beta` that only some models take: the beta's beginning, and those models.
type Takes = fn(&str, ClaudeModel) -> bool;
const BETAS: [(&str, Takes); 6] = [
    // A million tokens: Sonnet from 4 on, Opus from 4.6 on.
    ("context-1m-", |name, model| name.contains("sonnet-4") || model.effort >= Effort::Max),
    ("interleaved-thinking-", |name, model| !name.starts_with("claude-3") && model.thinks != Thinks::Never),
    ("effort-", |_, model| model.effort != Effort::None),
    ("adaptive-thinking-", |_, model| matches!(model.thinks, Thinks::Either | Thinks::Adaptive)),
    ("structured-outputs-", |name, model| model.format || name.starts_with("claude-opus-4-1")),
    ("fast-mode-", |_, model| model.fast),
];

/// Of a header `anthropic-beta` what a model takes: a beta that it does not take is a refused request. Betas that
/// are not known here stay.
pub fn betas(header: &str, model: &str) -> String {
    let Some(claude) = claude(model) else { return header.to_owned() };
    let name = model.find("claude").map_or(model, |at| &model[at..]).replace('.', "-");
    let taken = |beta: &&str| {
        let known = BETAS.iter().find(|(beginning, _)| beta.starts_with(beginning));
        known.is_none_or(|(_, takes)| takes(&name, claude))
    };
    header
        .split(',')
        .map(str::trim)
        .filter(|beta| !beta.is_empty())
        .filter(taken)
        .collect::<Vec<_>>()
        .join(",")
}
