//! Gives the bytes that libFuzzer makes up to the target that `FUZZ_TARGET` names.

#![no_main]

use std::sync::LazyLock;

#[path = "../../targets.rs"]
mod targets;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = targets::ALL.iter().find(|(known, _)| *known == name);
    found.map_or_else(|| panic!("FUZZ_TARGET names one of {:?}", targets::ALL.map(|(known, _)| known)), |(_, target)| *target)
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
