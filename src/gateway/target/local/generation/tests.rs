use super::*;

fn scored(token: TokenId) -> TokenLogprob {
    TokenLogprob { token, logprob: -0.5, top: vec![(token, -0.5), (9, -1.5)] }
}

fn options(logprobs: bool) -> TextOptions {
    TextOptions {
        tokenizer: None,
        stop_tokens: vec![2],
        include_stop: false,
        logprobs,
        skip_special: true,
        tokens_as_ids: false,
    }
}

fn choice() -> ChoiceText {
    ChoiceText {
        detokenizer: None,
        parser: None,
        reasoning_tokens: 0,
        unread_tokens: 0,
        unshown: None,
        held: Delta { choice: 3, ..Delta::default() },
        finished: false,
    }
}

#[test]
fn the_output_fits_into_the_context() {
    let tokens = |asked, prompt| output_tokens(asked, prompt, 100).map_err(|error| error.to_string());
    assert_eq!(tokens(10, 90), Ok(10));
    assert_eq!(tokens(10, 95), Ok(5));
    assert_eq!(tokens(u32::MAX, 1), Ok(99));
    assert_eq!(tokens(0, 50), Ok(0));
    for prompt in [100, 5000] {
        let error = tokens(16, prompt).unwrap_err();
        assert!(error.contains("100") && error.contains(&prompt.to_string()), "{error}");
    }
}

#[test]
fn without_a_tokenizer_ids_flow_and_text_does_not() {
    let mut choice = choice();
    let event = choice.token(&options(false), scored(7));
    assert_eq!(event, Some(TextEvent::Delta(Delta { choice: 3, ids: vec![7], ..Delta::default() })));
    let event = choice.finish(FinishReason::Length);
    let end = Delta { choice: 3, ..Delta::default() };
    assert_eq!(event, TextEvent::Finished(end, FinishReason::Length));
    assert!(choice.finished);
}

#[test]
fn scores_follow_their_tokens() {
    let Some(TextEvent::Delta(delta)) = choice().token(&options(true), scored(7)) else {
        panic!("a delta without a tokenizer")
    };
    assert_eq!(delta.scores.len(), 1);
    let score = &delta.scores[0];
    assert_eq!((score.text.as_str(), score.logprob), ("token_id:7", Some(-0.5)));
    assert_eq!(score.top[1].0, "token_id:9");

    let prompt = options(true).prompt_scores(&[4, 5], Some(vec![None, Some(scored(5))]));
    let logprobs: Vec<_> = prompt.iter().map(|score| score.logprob).collect();
    assert_eq!(logprobs, [None, Some(-0.5)]);
}
