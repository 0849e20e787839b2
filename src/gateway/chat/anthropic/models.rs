//! What Claude models take, by the beginnings of their names
//! (<https://docs.claude.com/en/docs/about-claude/models/overview>). One that is not listed is newer than this list,
//! and takes what the newest one in it takes; other makers' models behind Anthropic's format are nobody's to judge
//! here: they are sent what the caller says.

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

/// What a Claude model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct ClaudeModel {
    pub thinks: Thinks,
    pub effort: Effort,
    /// A schema for the whole answer, `output_config.format`.
    pub format: bool,
    /// Messages with the role `system` among the others.
    pub late_system: bool,
}

const fn model(thinks: Thinks, effort: Effort, format: bool) -> ClaudeModel {
    ClaudeModel { thinks, effort, format, late_system: false }
}

const NEWEST: ClaudeModel = ClaudeModel { late_system: true, ..model(Thinks::Adaptive, Effort::Xhigh, true) };

/// The first row whose beginning fits counts.
const MODELS: [(&str, ClaudeModel); 16] = [
    ("claude-2", model(Thinks::Never, Effort::None, false)),
    ("claude-instant", model(Thinks::Never, Effort::None, false)),
    ("claude-3-7", model(Thinks::Budget, Effort::None, false)),
    ("claude-3", model(Thinks::Never, Effort::None, false)),
    ("claude-opus-4-0", model(Thinks::Budget, Effort::None, false)),
    ("claude-opus-4-2025", model(Thinks::Budget, Effort::None, false)),
    ("claude-sonnet-4-0", model(Thinks::Budget, Effort::None, false)),
    ("claude-sonnet-4-2025", model(Thinks::Budget, Effort::None, false)),
    ("claude-opus-4-1", model(Thinks::Budget, Effort::None, true)),
    ("claude-sonnet-4-5", model(Thinks::Budget, Effort::None, true)),
    ("claude-haiku-4-5", model(Thinks::Budget, Effort::None, true)),
    ("claude-opus-4-5", model(Thinks::Budget, Effort::High, true)),
    ("claude-opus-4-6", model(Thinks::Either, Effort::Max, true)),
    ("claude-sonnet-4-6", model(Thinks::Either, Effort::Max, true)),
    ("claude-opus-4-7", model(Thinks::Adaptive, Effort::Xhigh, true)),
    // Takes `system` anywhere, as what came after it.
    ("claude-opus-4-8", NEWEST),
];

/// What a model takes; None for another maker's. `anthropic/claude-...` and the like are Claude models.
pub(in super::super) fn claude(model: &str) -> Option<ClaudeModel> {
    let name = model[model.find("claude")?..].replace('.', "-");
    let known = MODELS.iter().find(|(beginning, _)| name.starts_with(beginning));
    Some(known.map_or(NEWEST, |(_, model)| *model))
}

/// Betas of the header `anthropic-beta` that only some models take: the beta's beginning, and those models.
type Takes = fn(&str, ClaudeModel) -> bool;
const BETAS: [(&str, Takes); 6] = [
    // A million tokens: Sonnet from 4 on, Opus from 4.6 on.
    ("context-1m-", |name, model| name.contains("sonnet-4") || model.effort >= Effort::Max),
    ("interleaved-thinking-", |name, model| !name.starts_with("claude-3") && model.thinks != Thinks::Never),
    ("effort-", |_, model| model.effort != Effort::None),
    ("adaptive-thinking-", |_, model| matches!(model.thinks, Thinks::Either | Thinks::Adaptive)),
    ("structured-outputs-", |_, model| model.format),
    ("fast-mode-", |name, model| name.contains("opus") && model.effort >= Effort::Max),
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
