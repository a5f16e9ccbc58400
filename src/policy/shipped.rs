//! The law that this build ships with: every file of `policies/platform` and `policies/tables`, in the binary, so that whoever
//! needs one has it in any folder. A test fails when one is missing. Floor 5.

macro_rules! shipped {
    ($($name:literal),+ $(,)?) => {
        /// Each path below `policies/`, and the text.
        pub const SHIPPED: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../policies/", $name)))),+];
    };
}

shipped! {
    "platform/10-routing.cedar",
    "platform/20-sending.cedar",
    "platform/25-methods.cedar",
    "platform/30-credentials.cedar",
    "platform/40-rollout.cedar",
    "platform/50-operators.cedar",
    "platform/60-changes.cedar",
    "platform/90-guards.cedar",
    "tables/10-routing.yaml",
    "tables/20-sending.yaml",
    "tables/25-methods.yaml",
    "tables/30-credentials.yaml",
    "tables/35-credentials-all.yaml",
    "tables/35-fallback.yaml",
    "tables/40-rollout.yaml",
    "tables/45-legacy.yaml",
    "tables/50-operators.yaml",
    "tables/60-changes.yaml",
    "tables/65-promotion.yaml",
    "tables/90-guards.yaml",
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn everything_that_is_shipped_is_embedded() {
        let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
        let mut there: Vec<String> = ["platform", "tables"]
            .into_iter()
            .flat_map(|folder| std::fs::read_dir(policies.join(folder)).unwrap().map(move |entry| (folder, entry.unwrap().file_name())))
            .map(|(folder, name)| format!("{folder}/{}", name.into_string().unwrap()))
            .collect();
        there.sort();
        let embedded: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
        assert_eq!(embedded, there, "add the file to shipped! in src/policy/shipped.rs");
    }
}
