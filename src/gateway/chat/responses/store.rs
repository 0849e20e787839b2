//! Earlier responses, for who goes on from them by `previous_response_id`, refers to their items or asks for them
//! again. Each key sees its own only. Pure: time is an argument.
//!
//! A conversation that is gone on from ten times is kept once: responses share their items. What is kept has
//! bounds ([`Bounds`]); what was used least lately goes first, and what is too old goes whether used or not.
//! Nothing outlives the program.

use super::request::Earlier;
use crate::gateway::wire::fields::{BadField, Fields};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// What one object, list or string of JSON takes beside its text, in bytes: about an allocation and its place in
/// a map.
const VALUE_BYTES: usize = 64;
/// Items that a page of [`ResponseStore::input_items`] has at most, and unless told otherwise.
const PAGE_ITEMS_MAX: i64 = 100;
const PAGE_ITEMS_DEFAULT: usize = 20;

/// An item of a conversation.
#[derive(Debug)]
pub struct Item {
    value: Value,
    bytes: OnceLock<usize>,
    /// Kept responses of its key's that have it.
    holders: AtomicUsize,
}

impl Item {
    /// An item that nobody holds yet.
    pub fn new(value: Value) -> Self {
        Self { value, bytes: OnceLock::new(), holders: AtomicUsize::new(0) }
    }

    /// As JSON.
    pub fn value(&self) -> &Value {
        &self.value
    }

    fn id(&self) -> Option<&str> {
        self.value.get("id")?.as_str()
    }

    fn bytes(&self) -> usize {
        *self.bytes.get_or_init(|| bytes_of(&self.value))
    }
}

/// About what a value takes in memory.
fn bytes_of(value: &Value) -> usize {
    VALUE_BYTES
        + match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(bytes_of).sum(),
            Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + bytes_of(value)).sum(),
        }
}

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Responses of one key.
    pub responses_per_key_max: usize,
    /// Bytes of one key's.
    pub bytes_per_key_max: usize,
    /// Bytes of all keys'.
    pub bytes_max: usize,
    /// Seconds since a response was made.
    pub age_s_max: u64,
}

impl Default for Bounds {
    /// A long agent's conversation is some 1 MB, so a key has room for about 60 of them at once.
    fn default() -> Self {
        Self {
            responses_per_key_max: 10_000,
            bytes_per_key_max: 64 << 20,
            bytes_max: 256 << 20,
            age_s_max: 24 * 3600,
        }
    }
}

/// The responses.
#[derive(Debug)]
pub struct ResponseStore {
    bounds: Bounds,
    keys: HashMap<String, OfKey>,
    /// Which key's response was used when; the first was used least lately.
    by_use: BTreeMap<u64, String>,
    /// Which response was made when, with its key; the first is the oldest.
    by_birth: BTreeMap<u64, (String, String)>,
    bytes: usize,
    /// Counts puts and uses.
    ticks: u64,
}

/// One key's.
#[derive(Debug, Default)]
struct OfKey {
    responses: HashMap<String, Kept>,
    by_use: BTreeMap<u64, String>,
    /// Items that have ids.
    items: HashMap<String, Arc<Item>>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    response: Arc<Value>,
    /// All items up to it, then its own.
    conversation: Vec<Arc<Item>>,
    /// How many of those it was made from.
    inputs: usize,
    /// Of the response itself and the list.
    bytes: usize,
    born_s: u64,
    birth: u64,
    used: u64,
}

impl ResponseStore {
    /// An empty store.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            keys: HashMap::new(),
            by_use: BTreeMap::new(),
            by_birth: BTreeMap::new(),
            bytes: 0,
            ticks: 0,
        }
    }

    /// About what is kept, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Responses that are kept.
    pub fn len(&self) -> usize {
        self.by_birth.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.by_birth.is_empty()
    }

    /// Keeps a response with the conversation that it was made from, of which the last `added` items came with its
    /// own request. One that is larger than all that a key may keep is not kept.
    pub fn put(&mut self, key: &str, response: Value, conversation: &[Arc<Item>], added: usize, now_s: u64) {
        let Some(id) = response.get("id").and_then(Value::as_str).map(str::to_owned) else { return };
        self.expire(now_s);
        self.delete(key, &id);
        let known = conversation.len() - added.min(conversation.len());
        let mut items = conversation[..known].to_vec();
        items.extend(conversation[known..].iter().enumerate().map(|(i, item)| with_id(item, &id, i)));
        let inputs = items.len();
        let output = response.get("output").and_then(Value::as_array).into_iter().flatten();
        items.extend(output.map(|item| Arc::new(Item::new(item.clone()))));
        let whole: usize = items.iter().map(|item| item.bytes()).sum();
        let bytes = bytes_of(&response) + VALUE_BYTES * items.len();
        if whole + bytes > self.bounds.bytes_per_key_max.min(self.bounds.bytes_max) {
            return;
        }
        self.ticks += 1;
        let tick = self.ticks;
        let of_key = self.keys.entry(key.to_owned()).or_default();
        let held: usize = items.iter().map(|item| of_key.hold(item)).sum();
        of_key.bytes += held + bytes;
        self.bytes += held + bytes;
        let response = Arc::new(response);
        let kept =
            Kept { response, conversation: items, inputs, bytes, born_s: now_s, birth: tick, used: tick };
        of_key.responses.insert(id.clone(), kept);
        of_key.by_use.insert(tick, id.clone());
        self.by_use.insert(tick, key.to_owned());
        self.by_birth.insert(tick, (key.to_owned(), id));
        while let Some(id) = self.over_bounds(key) {
            self.delete(key, &id);
        }
        while self.bytes > self.bounds.bytes_max {
            let Some((tick, key)) = self.by_use.first_key_value().map(|(tick, key)| (*tick, key.clone()))
            else {
                break;
            };
            let Some(id) = self.keys.get(&key).and_then(|of_key| of_key.by_use.get(&tick)).cloned() else {
                break;
            };
            self.delete(&key, &id);
        }
    }

    /// The response of a key's that has to go, if it has too much.
    fn over_bounds(&self, key: &str) -> Option<String> {
        let of_key = self.keys.get(key)?;
        let over = of_key.responses.len() > self.bounds.responses_per_key_max
            || of_key.bytes > self.bounds.bytes_per_key_max;
        of_key.by_use.first_key_value().map(|(_, id)| id.clone()).filter(|_| over)
    }

    /// A response of this key's.
    pub fn get(&mut self, key: &str, id: &str, now_s: u64) -> Option<Arc<Value>> {
        self.used(key, id, now_s).map(|kept| kept.response.clone())
    }

    /// All items up to a response of this key's and its own.
    pub fn conversation(&mut self, key: &str, id: &str, now_s: u64) -> Option<Vec<Arc<Item>>> {
        self.used(key, id, now_s).map(|kept| kept.conversation.clone())
    }

    /// An item of a conversation of this key's.
    pub fn item(&mut self, key: &str, id: &str, now_s: u64) -> Option<Arc<Item>> {
        self.expire(now_s);
        self.keys.get(key)?.items.get(id).cloned()
    }

    /// A page of the items that a response was made from, by the query of
    /// `GET /v1/responses/{id}/input_items`: `limit`, `order`, `after`. None where the response is not kept.
    pub fn input_items(
        &mut self,
        key: &str,
        id: &str,
        query: &Value,
        now_s: u64,
    ) -> Result<Option<Value>, BadField> {
        let query = Fields::root(query)?;
        let limit =
            query.integer("limit", 1, PAGE_ITEMS_MAX)?.map_or(PAGE_ITEMS_DEFAULT, |limit| limit as usize);
        let forward = match query.str("order")? {
            Some("asc") => true,
            None | Some("desc") => false,
            Some(other) => return Err(BadField::new("order", format!("must be asc or desc, got `{other}`"))),
        };
        let after = query.str("after")?;
        let Some(kept) = self.used(key, id, now_s) else { return Ok(None) };
        let mut items: Vec<&Arc<Item>> = kept.conversation[..kept.inputs].iter().collect();
        if !forward {
            items.reverse();
        }
        if let Some(after) = after {
            let at = items.iter().position(|item| item.id() == Some(after));
            let at = at
                .ok_or_else(|| BadField::new("after", format!("must be the id of an item, got `{after}`")))?;
            items.drain(..=at);
        }
        let has_more = items.len() > limit;
        items.truncate(limit);
        let id_of = |item: Option<&&Arc<Item>>| item.and_then(|item| item.id()).map(str::to_owned);
        Ok(Some(json!({
            "object": "list",
            "first_id": id_of(items.first()),
            "last_id": id_of(items.last()),
            "has_more": has_more,
            "data": items.iter().map(|item| item.value()).collect::<Vec<_>>(),
        })))
    }

    /// Forgets a response; false where there is none.
    pub fn delete(&mut self, key: &str, id: &str) -> bool {
        let Some(of_key) = self.keys.get_mut(key) else { return false };
        let Some(kept) = of_key.responses.remove(id) else { return false };
        let freed = kept.bytes + kept.conversation.iter().map(|item| of_key.release(item)).sum::<usize>();
        of_key.by_use.remove(&kept.used);
        of_key.bytes -= freed;
        self.bytes -= freed;
        self.by_use.remove(&kept.used);
        self.by_birth.remove(&kept.birth);
        if of_key.responses.is_empty() {
            self.keys.remove(key);
        }
        true
    }

    /// Forgets what is too old.
    fn expire(&mut self, now_s: u64) {
        while let Some((_, (key, id))) = self.by_birth.first_key_value() {
            let born_s =
                self.keys.get(key).and_then(|of_key| of_key.responses.get(id)).map_or(0, |kept| kept.born_s);
            if born_s.saturating_add(self.bounds.age_s_max) >= now_s {
                return;
            }
            let (key, id) = (key.clone(), id.clone());
            self.delete(&key, &id);
        }
    }

    /// A response that is used now.
    fn used(&mut self, key: &str, id: &str, now_s: u64) -> Option<&Kept> {
        self.expire(now_s);
        self.ticks += 1;
        let of_key = self.keys.get_mut(key)?;
        let kept = of_key.responses.get_mut(id)?;
        of_key.by_use.remove(&kept.used);
        self.by_use.remove(&kept.used);
        kept.used = self.ticks;
        of_key.by_use.insert(kept.used, id.to_owned());
        self.by_use.insert(kept.used, key.to_owned());
        Some(kept)
    }
}

impl OfKey {
    /// Counts a holder; the bytes of an item that had none.
    fn hold(&mut self, item: &Arc<Item>) -> usize {
        if item.holders.fetch_add(1, Ordering::Relaxed) > 0 {
            return 0;
        }
        if let Some(id) = item.id() {
            self.items.insert(id.to_owned(), item.clone());
        }
        item.bytes()
    }

    /// Takes a holder away; the bytes of an item that has none left.
    fn release(&mut self, item: &Arc<Item>) -> usize {
        if item.holders.fetch_sub(1, Ordering::Relaxed) > 1 {
            return 0;
        }
        if let Some(id) = item.id()
            && self.items.get(id).is_some_and(|known| Arc::ptr_eq(known, item))
        {
            self.items.remove(id);
        }
        item.bytes()
    }
}

/// An item of a request as it is listed: with an id, and a message's text as a part.
fn with_id(item: &Arc<Item>, response_id: &str, i: usize) -> Arc<Item> {
    let Some(fields) = item.value.as_object() else { return item.clone() };
    let word = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
    let (kind, text) = (word("type").unwrap_or_else(|| "message".to_owned()), word("content"));
    let named = word("id").is_some();
    if item.holders.load(Ordering::Relaxed) > 0 || (named && text.is_none()) {
        return item.clone();
    }
    let mut fields = fields.clone();
    if kind == "message" {
        fields.insert("type".into(), "message".into());
        if let Some(text) = text {
            let part = if fields.get("role").is_some_and(|role| role == "assistant") {
                json!({"type": "output_text", "text": text, "annotations": []})
            } else {
                json!({"type": "input_text", "text": text})
            };
            fields.insert("content".into(), json!([part]));
        }
        fields.entry("status").or_insert_with(|| "completed".into());
    }
    if !named {
        let prefix = match kind.as_str() {
            "message" => "msg",
            "function_call" => "fc",
            "reasoning" => "rs",
            _ => "item",
        };
        let hex = response_id.strip_prefix("resp_").unwrap_or(response_id);
        fields.insert("id".into(), format!("{prefix}_{hex}_in{i}").into());
    }
    Arc::new(Item::new(fields.into()))
}

/// One key's view of a store that requests share.
#[derive(Debug)]
pub struct OfOneKey<'a> {
    /// The store.
    pub store: &'a Mutex<ResponseStore>,
    /// The key's name.
    pub key: &'a str,
    /// Seconds since 1970.
    pub now_s: u64,
}

impl OfOneKey<'_> {
    /// About what the conversation up to a response takes in memory.
    pub fn bytes(&self, response_id: &str) -> usize {
        self.conversation(response_id).iter().flatten().map(|item| item.bytes()).sum()
    }

    fn with<T>(&self, f: impl FnOnce(&mut ResponseStore) -> T) -> T {
        f(&mut self.store.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Earlier for OfOneKey<'_> {
    fn conversation(&self, response_id: &str) -> Option<Vec<Arc<Item>>> {
        self.with(|store| store.conversation(self.key, response_id, self.now_s))
    }

    fn item(&self, item_id: &str) -> Option<Arc<Item>> {
        self.with(|store| store.item(self.key, item_id, self.now_s))
    }
}
