//! From a decoder's hidden state of a prompt's last token to the numbers that a request wants in place of tokens.
//! On the host and in f32: it is one row of a prompt.

use crate::protocol::EngineTasks;

/// What follows the final norm where no token is wanted.
#[derive(Clone, Debug)]
pub struct PoolingHead {
    /// Factor on hidden states, to undo what the final norm's weight has in it for the sake of logits.
    pub scale: f32,
    /// Embeddings are divided by their length (L2).
    pub normalise: bool,
    /// Of a sequence classifier, row by row `[labels, hidden]`; such a model has no head for tokens.
    pub classifier: Option<Vec<f32>>,
}

impl PoolingHead {
    /// What its model can be asked for.
    pub fn tasks(&self) -> EngineTasks {
        match self.classifier {
            None => EngineTasks::CAUSAL,
            Some(_) => EngineTasks { generates: false, embeds: true, classifies: true },
        }
    }

    /// The vector of a prompt.
    pub fn embed(&self, row: &[f32]) -> Vec<f32> {
        let mut values: Vec<f32> = row.iter().map(|value| value * self.scale).collect();
        if self.normalise {
            normalise(&mut values);
        }
        values
    }

    /// A logit for each label; none without a classifier.
    pub fn classify(&self, row: &[f32]) -> Vec<f32> {
        let labels = self.classifier.iter().flat_map(|weights| weights.chunks_exact(row.len()));
        labels.map(|weights| dot(row, weights) * self.scale).collect()
    }
}

/// Divides a vector by its length (L2), as torch's `normalize` does: no less than 1e-12.
pub fn normalise(values: &mut [f32]) {
    let length = dot(values, values).sqrt().max(1e-12);
    values.iter_mut().for_each(|value| *value /= length);
}

/// Summed in f64 and in order, so that its bits are the same everywhere.
fn dot(left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).map(|(left, right)| f64::from(*left) * f64::from(*right)).sum::<f64>() as f32
}
