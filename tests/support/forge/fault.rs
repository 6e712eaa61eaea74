//! One line of the script that a [`Forge`](super::Forge) fails by.
//!
//! Used by tests through [`Forge::fail`](super::Forge::fail) and read by `door.rs` for every request.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, StatusCode};

/// What to do wrong, to which requests, and when.
///
/// Made by one of the first five functions, narrowed by the others:
/// `Fault::answer(429).header("retry-after", "2").writes().times(3)`.
/// Without narrowing it strikes the next request, whatever it is, before that has any effect.
#[derive(Clone, Debug)]
pub struct Fault {
    pub(super) harm: Harm,
    /// Whether the request takes effect before the harm is done: the case in which a client cannot know.
    pub(super) afterwards: bool,
    /// Added to the answer, whoever gives it.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    writes: Option<bool>,
    path: Option<String>,
    when: When,
    seen: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Harm {
    Answer {
        status: StatusCode,
        body: String,
    },
    /// An answer whose body is the request.
    Echo {
        status: StatusCode,
        quote: fn(&str) -> String,
    },
    Delay(Duration),
    Reset,
    Hang {
        /// It takes effect all the same, this long after it came.
        lands: Option<Duration>,
    },
    HalfBody,
}

#[derive(Clone, Copy, Debug)]
enum When {
    Next(usize),
    Every(usize),
    Chance(f64),
}

impl Fault {
    /// Answers with this status instead of the host's own.
    pub fn answer(status: u16) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::new(Harm::Answer { status, body: String::new() })
    }

    /// Waits this long, then answers as usual; with [`header`](Self::header) as Azure DevOps does when it throttles.
    pub fn delay(delay: Duration) -> Self {
        Self::new(Harm::Delay(delay))
    }

    /// Resets the connection instead of answering.
    pub fn reset() -> Self {
        Self::new(Harm::Reset)
    }

    /// Never answers; the connection stays open until the client or the forge ends it.
    pub fn hang() -> Self {
        Self::new(Harm::Hang { lands: None })
    }

    /// Lets the request of a [`hang`](Self::hang) take effect so long after it came, whether or not the client is
    /// still there.
    pub fn lands_after(mut self, delay: Duration) -> Self {
        if let Harm::Hang { lands } = &mut self.harm {
            *lands = Some(delay);
        }
        self
    }

    /// Takes the request as usual, promises the whole answer, sends half of its body and closes.
    pub fn half_body() -> Self {
        Self::new(Harm::HalfBody)
    }

    fn new(harm: Harm) -> Self {
        Self { harm, afterwards: false, headers: Vec::new(), writes: None, path: None, when: When::Next(1), seen: 0 }
    }

    /// Adds a header to the answer, this one's or the host's own. A header that cannot be one is left out.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            self.headers.push((name, value));
        }
        self
    }

    /// Sets the body of an [`answer`](Self::answer).
    pub fn body(mut self, text: &str) -> Self {
        if let Harm::Answer { body, .. } = &mut self.harm {
            text.clone_into(body);
        }
        self
    }

    /// Makes the body of an [`answer`](Self::answer) the request itself, headers and body, as some servers do.
    pub fn echo(mut self) -> Self {
        if let Harm::Answer { status, .. } = self.harm {
            self.harm = Harm::Echo { status, quote: str::to_owned };
        }
        self
    }

    /// The values of the headers, and the body, of an [`echo`](Self::echo) are quoted so.
    pub fn quoted(mut self, by: fn(&str) -> String) -> Self {
        if let Harm::Echo { quote, .. } = &mut self.harm {
            *quote = by;
        }
        self
    }

    /// Strikes GET, HEAD and OPTIONS only.
    pub fn reads(mut self) -> Self {
        self.writes = Some(false);
        self
    }

    /// Strikes everything but GET, HEAD and OPTIONS.
    pub fn writes(mut self) -> Self {
        self.writes = Some(true);
        self
    }

    /// Strikes only requests whose path contains `part`, for example `acme/fleet`. The path is taken as it came: at
    /// GitLab that is `acme%2Ffleet`.
    pub fn path(mut self, part: &str) -> Self {
        self.path = Some(part.to_owned());
        self
    }

    /// Strikes the next `count` requests that fit, then never again.
    pub fn times(mut self, count: usize) -> Self {
        self.when = When::Next(count);
        self
    }

    /// Strikes each `step`-th request that fits, until [`Forge::recover`](super::Forge::recover).
    pub fn every(mut self, step: usize) -> Self {
        self.when = When::Every(step.max(1));
        self
    }

    /// Strikes each request that fits with this probability, until [`Forge::recover`](super::Forge::recover).
    pub fn chance(mut self, probability: f64) -> Self {
        self.when = When::Chance(probability);
        self
    }

    /// Lets the request take effect first: a status is written, and its writer never hears of it.
    pub fn afterwards(mut self) -> Self {
        self.afterwards = true;
        self
    }

    /// Whether this line strikes the request. To be asked once for each, as it counts those that fit.
    pub(super) fn strikes(&mut self, method: &Method, path: &str) -> bool {
        let fits = self.writes.is_none_or(|writes| writes == is_write(method))
            && self.path.as_ref().is_none_or(|part| path.contains(part.as_str()));
        if !fits {
            return false;
        }
        self.seen += 1;
        match self.when {
            When::Next(count) => self.seen <= count,
            When::Every(step) => self.seen.is_multiple_of(step),
            When::Chance(probability) => fastrand::f64() < probability,
        }
    }

    /// What it does, in a word or two; for counting.
    pub(super) fn label(&self) -> String {
        let harm = match &self.harm {
            Harm::Answer { status, .. } | Harm::Echo { status, .. } => status.as_u16().to_string(),
            Harm::Delay(_) => "delay".to_owned(),
            Harm::Reset => "reset".to_owned(),
            Harm::Hang { lands: None } => "hang".to_owned(),
            Harm::Hang { .. } => return "late".to_owned(),
            // The host always acts before half of its answer is sent.
            Harm::HalfBody => return "half body".to_owned(),
        };
        if self.afterwards { format!("{harm} after") } else { harm }
    }
}

/// Whether a request wants to change something.
pub(super) fn is_write(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}
