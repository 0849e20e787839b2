//! Which tokens end an answer: what the files say, what the chat template writes, and names.

use super::{family_file, read_json};
use crate::text::tokenizer::converted;
use novastack::checkpoint::{Checkpoint, GgufVocab, TokenizerSource};
use novastack::text::{EndToken, Tokenizer};
use serde_json::{Value, json};

/// A GGUF file's vocabulary, one token a name: those of type 3 are control tokens, 1 words.
fn vocab(tokens: &[(&str, i32)], eos: &[u32]) -> GgufVocab {
    GgufVocab {
        model: "gpt2".into(),
        pre: "gpt-2".into(),
        tokens: tokens.iter().map(|(token, _)| (*token).to_owned()).collect(),
        token_types: tokens.iter().map(|(_, kind)| *kind).collect(),
        eos: eos.to_vec(),
        ..GgufVocab::default()
    }
}

fn checkpoint(vocab: GgufVocab, template: Option<&str>) -> Checkpoint {
    Checkpoint {
        config: json!({"eos_token_id": vocab.eos}),
        generation_config: json!({"eos_token_id": vocab.eos}),
        tokenizer_config: json!({}),
        chat_template: template.map(str::to_owned),
        tokenizer: Some(TokenizerSource::Gguf(vocab)),
        ..Checkpoint::default()
    }
}

/// Each end token with who says so.
fn ends(checkpoint: &Checkpoint) -> Vec<String> {
    let tokenizer = Tokenizer::from_checkpoint(checkpoint).expect("tokenizer");
    let ids: Vec<u32> = tokenizer.end_tokens().iter().map(|end| end.id).collect();
    assert_eq!(ids, tokenizer.eos_ids());
    tokenizer.end_tokens().iter().map(EndToken::to_string).collect()
}

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                      {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// The real Qwen2.5 vocabulary as llama.cpp's converter writes it, whose metadata names <|im_end|>.
#[test]
fn a_gguf_file_that_names_im_end_ends_at_endoftext_and_file_sep_too() {
    let Some(path) = family_file("qwen2_5", "tokenizer.json") else { return };
    let Some(config) = family_file("qwen2_5", "tokenizer_config.json") else { return };
    let template = read_json(&config)["chat_template"].as_str().expect("template").to_owned();
    let mut vocab = converted(&path, "qwen2");
    // <|endoftext|> is BOS in these files, which does not keep it from being an end.
    (vocab.bos, vocab.eos) = (Some(151_643), vec![151_645]);
    let rest = [
        "151643 <|endoftext|> (name)",
        "151664 <|file_sep|> (name)",
        "151663 <|repo_name|> (name)",
        "151662 <|fim_pad|> (name)",
    ];
    let named = ends(&checkpoint(vocab.clone(), Some(&template)));
    assert_eq!(named[0], "151645 <|im_end|> (GGUF metadata, chat template, name)");
    assert_eq!(named[1..], rest);

    // A wrong id, as in many files: the template and the names still end the answer.
    vocab.eos = vec![151_643];
    let wrong = ends(&checkpoint(vocab.clone(), Some(&template)));
    assert_eq!(wrong[0], "151643 <|endoftext|> (GGUF metadata, name)");
    assert_eq!(wrong[1], "151645 <|im_end|> (chat template, name)");

    // None at all, and no template.
    vocab.eos.clear();
    let missing = ends(&checkpoint(vocab, None));
    assert_eq!(missing[0], "151645 <|im_end|> (name)");
    assert_eq!(missing[1..], rest);
}

/// tokenizer.json says of <|file_sep|> that it is no special token.
#[test]
fn a_directory_and_a_gguf_file_of_one_model_end_alike() {
    for (family, pre) in
        [("qwen3", "qwen2"), ("qwen2_5", "qwen2"), ("llama3_1", "llama-bpe"), ("deepseek_v3", "deepseek-v3")]
    {
        let Some(path) = family_file(family, "tokenizer.json") else { return };
        let Some(config) = family_file(family, "tokenizer_config.json") else { return };
        let config = read_json(&config);
        let template = config["chat_template"].as_str().expect("template");
        let ids = |tokenizer: TokenizerSource, tokenizer_config: &Value| {
            let checkpoint = Checkpoint {
                config: json!({}),
                generation_config: json!({}),
                tokenizer_config: tokenizer_config.clone(),
                chat_template: Some(template.to_owned()),
                tokenizer: Some(tokenizer),
                ..Checkpoint::default()
            };
            let mut ids = Tokenizer::from_checkpoint(&checkpoint).expect("tokenizer").eos_ids().to_vec();
            ids.sort_unstable();
            ids
        };
        let gguf = ids(TokenizerSource::Gguf(converted(&path, pre)), &json!({}));
        assert_eq!(ids(TokenizerSource::Json(path), &config), gguf, "{family}");
        let expected: &[u32] = match family {
            "llama3_1" => &[128_001, 128_009],
            "deepseek_v3" => &[1],
            _ => &[151_643, 151_645, 151_662, 151_663, 151_664],
        };
        assert!(expected.iter().all(|id| gguf.contains(id)), "{family}: {gguf:?}");
    }
}

#[test]
fn a_word_that_is_spelled_like_an_end_is_none() {
    let words = vocab(&[("</s>", 1), ("<|im_end|>", 1), ("<eos>", 4), ("<|end|>", 4), ("a", 1)], &[]);
    // User-defined tokens between bars are meant as special ones, and llama.cpp takes them so.
    assert_eq!(ends(&checkpoint(words, None)), ["3 <|end|> (name)"]);
}

#[test]
fn what_the_template_writes_within_an_answer_does_not_end_it() {
    let tokens =
        [("<|im_start|>", 3), ("<|im_end|>", 3), ("<|end|>", 3), ("<|call|>", 3), ("<|endoftext|>", 3)];
    let plain = ends(&checkpoint(vocab(&tokens, &[]), Some(CHATML)));
    assert_eq!(
        plain,
        [
            "1 <|im_end|> (chat template, name)",
            "2 <|end|> (name)",
            "3 <|call|> (name)",
            "4 <|endoftext|> (name)"
        ]
    );
    // Reasoning ends with <|end|>, and a call begins with <|call|>.
    let parts = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}{{ m.reasoning_content }}\
                 <|end|>{% endif %}{{ m.content }}{% for c in m.tool_calls %}<|call|>{{ c.function.arguments | tojson }}\
                 {% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let within = ends(&checkpoint(vocab(&tokens, &[]), Some(parts)));
    assert_eq!(within, ["1 <|im_end|> (chat template, name)", "4 <|endoftext|> (name)"]);
    // What the file names holds all the same.
    let named = ends(&checkpoint(vocab(&tokens, &[2]), Some(parts)));
    assert_eq!(named[0], "2 <|end|> (GGUF metadata, name)");
    // gpt-oss, where no template tells.
    let harmony = [("<|end|>", 3), ("<|call|>", 3), ("<|return|>", 3)];
    assert_eq!(ends(&checkpoint(vocab(&harmony, &[]), None)), ["2 <|return|> (name)", "1 <|call|> (name)"]);
}

/// GLM's way: nothing is written behind an answer but the next turn's mark.
#[test]
fn the_next_turn_ends_an_answer_where_nothing_else_does() {
    let tokens = [("<|user|>", 3), ("<|assistant|>", 3), ("<|observation|>", 3)];
    let template = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}\
                    {% if add_generation_prompt %}<|assistant|>\n{% endif %}";
    assert_eq!(ends(&checkpoint(vocab(&tokens, &[]), Some(template))), ["0 <|user|> (chat template)"]);
    // A template that refuses the probe tells nothing and breaks nothing.
    let refuses = "{{ raise_exception('no') }}";
    assert_eq!(ends(&checkpoint(vocab(&tokens, &[1]), Some(refuses))), ["1 <|assistant|> (GGUF metadata)"]);
}

#[test]
fn an_end_token_beyond_the_vocabulary_is_a_warning() {
    let checkpoint = Checkpoint {
        generation_config: json!({"eos_token_id": [1, 700]}),
        ..checkpoint(vocab(&[("a", 1), ("<|im_end|>", 3)], &[]), None)
    };
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).expect("tokenizer");
    assert_eq!(tokenizer.eos_ids(), [1]);
    assert_eq!(
        tokenizer.warnings(),
        ["GGUF metadata names the end token 700, which is not in the vocabulary"]
    );
}
