//! Names of files in several parts: `model-00002-of-00003.safetensors`, and the same of GGUF files.

/// Digits of both numbers, in llama.cpp's names and transformers'.
const DIGITS: usize = 5;
/// More parts than any published model has.
const PARTS_MAX: usize = 10_000;

/// The names of all parts, in order, where `name` (which may be a path) is one of them.
pub(super) fn all(name: &str, extension: &str) -> Option<Vec<String>> {
    let stem = name.strip_suffix(extension)?.strip_suffix('.')?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    let parsed = |digits: &str| {
        let plain = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<usize>().ok().filter(|_| plain)
    };
    let (number, count) = (parsed(number)?, parsed(count)?);
    if !(1..=count).contains(&number) || count > PARTS_MAX {
        return None;
    }
    Some((1..=count).map(|part| format!("{prefix}-{part:05}-of-{count:05}.{extension}")).collect())
}

#[cfg(test)]
mod tests {
    use super::all;

    #[test]
    fn names_of_all_parts() {
        let names = ["q/m-00001-of-00002.gguf", "q/m-00002-of-00002.gguf"];
        for name in names {
            assert_eq!(all(name, "gguf").expect("a part"), names);
        }
        for name in ["m.gguf", "m-00003-of-00002.gguf", "m-00000-of-00002.gguf", "m-1-of-2.gguf", names[0]] {
            let extension = if name == names[0] { "safetensors" } else { "gguf" };
            assert!(all(name, extension).is_none(), "{name}");
        }
    }
}
