//! What the events door makes of any body: it is refused, or an event that Herald can send on and
//! whoever gets it reads as the same. `make fuzz` runs it.

#![no_main]

use herald::api::Event;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let Ok(event) = Event::decode(body) else { return };
    let sent = event.encode();
    assert_eq!(Event::decode(&sent).expect("what is sent can be read"), event);
    // Go's escapes: a page that shows the body cannot be made to run it.
    assert!(!sent.iter().any(|byte| b"<>&".contains(byte)), "{event:?}");
    // A reader that is strict about keys, escapes and UTF-8 finds the same message.
    let strict: serde_json::Value = serde_json::from_slice(&sent).expect("what is sent is JSON");
    assert_eq!(strict["message"], event.message);
});
