//! The events of an answer, neighbours of one kind joined within a piece.

/// What an answer is made of, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParsedEvent {
    /// Text for the user.
    Text(String),
    /// Reasoning before it.
    Reasoning(String),
    /// A call of a tool begins.
    Call {
        /// Its number, from 0.
        call: u32,
        /// Its id, where the format carries one (Kimi's `functions.NAME:N`).
        id: Option<String>,
        /// One of the tools that the request offers.
        name: String,
    },
    /// The next piece of a call's arguments.
    Arguments {
        /// The call's number.
        call: u32,
        /// A piece of the JSON text.
        json: String,
    },
    /// A call has ended; another may begin.
    EndCall {
        /// The call's number.
        call: u32,
    },
}

/// Collects events. At most one call is open at a time.
#[derive(Debug, Default)]
pub(super) struct Output {
    events: Vec<ParsedEvent>,
    calls: u32,
    is_open: bool,
    has_arguments: bool,
    begins_with_text: bool,
}

impl Output {
    pub(super) fn calls(&self) -> u32 {
        self.calls
    }

    /// Whether text came before any call.
    pub(super) fn begins_with_text(&self) -> bool {
        self.begins_with_text
    }

    pub(super) fn move_to(&mut self, events: &mut Vec<ParsedEvent>) {
        events.append(&mut self.events);
    }

    pub(super) fn text(&mut self, piece: &str) {
        if piece.is_empty() {
            return;
        }
        self.begins_with_text |= self.calls == 0;
        match self.events.last_mut() {
            Some(ParsedEvent::Text(text)) => text.push_str(piece),
            _ => self.events.push(ParsedEvent::Text(piece.into())),
        }
    }

    pub(super) fn text_char(&mut self, c: char) {
        self.text(c.encode_utf8(&mut [0; 4]));
    }

    pub(super) fn reasoning(&mut self, piece: &str) {
        if piece.is_empty() {
            return;
        }
        match self.events.last_mut() {
            Some(ParsedEvent::Reasoning(text)) => text.push_str(piece),
            _ => self.events.push(ParsedEvent::Reasoning(piece.into())),
        }
    }

    /// A call begins; the one before it has ended.
    pub(super) fn call(&mut self, name: &str, id: Option<String>) {
        self.end_call();
        self.events.push(ParsedEvent::Call { call: self.calls, id, name: name.into() });
        self.calls += 1;
        self.is_open = true;
        self.has_arguments = false;
    }

    /// More of the open call's arguments.
    pub(super) fn arguments(&mut self, piece: &str) {
        debug_assert!(self.is_open);
        if piece.is_empty() {
            return;
        }
        self.has_arguments = true;
        match self.events.last_mut() {
            Some(ParsedEvent::Arguments { json, .. }) => json.push_str(piece),
            _ => self.events.push(ParsedEvent::Arguments { call: self.calls - 1, json: piece.into() }),
        }
    }

    /// The open call is whole.
    pub(super) fn complete_call(&mut self) {
        if self.is_open && !self.has_arguments {
            self.arguments("{}");
        }
        self.end_call();
    }

    /// The open call, if there is one, ends as it is.
    pub(super) fn end_call(&mut self) {
        if std::mem::take(&mut self.is_open) {
            self.events.push(ParsedEvent::EndCall { call: self.calls - 1 });
        }
    }
}
