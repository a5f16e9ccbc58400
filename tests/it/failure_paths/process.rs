//! Rows about the process as a whole: a configuration, keys or policies that it must not start with.

use std::collections::BTreeMap;
use std::path::Path;

use byoa_gateway::matrix::Played;
use byoa_gateway::matrix::row::Play;

use crate::support::here;

/// A process that must not start, by its configuration or by its policies.
pub fn play(play: &Play) -> Played {
    let (when, expect) = (&play.when, &play.expect);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("byoa.yaml");
    std::fs::write(&file, when.config_file.as_deref().unwrap_or_default()).unwrap();
    let loaded = byoa_gateway::config::load::load(Some(&file), when.environment.clone().into_iter());
    let policies = dir.path().join("policies");
    if let Some(files) = &when.policies {
        std::fs::create_dir(&policies).unwrap();
        save(&policies, files);
    }
    let said = match &loaded {
        Ok(_) if when.policies.is_some() || when.key_file.is_some() => {
            let keys = dir.path().join("data/master.keys");
            if let Some(text) = &when.key_file {
                std::fs::create_dir(dir.path().join("data")).unwrap();
                std::fs::write(&keys, text).unwrap();
                let mode = u32::from_str_radix(when.key_mode.as_deref().unwrap_or("600"), 8).unwrap();
                std::fs::set_permissions(&keys, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            }
            let policies = if when.policies.is_some() { policies } else { here("policies") };
            let done = std::process::Command::new(env!("CARGO_BIN_EXE_byoa"))
                .args(["serve", "--public", "127.0.0.1:0", "--operator", "127.0.0.1:0", "--config"])
                .arg(&file)
                .env("BYOA_POLICIES__DIR", &policies)
                .env("BYOA_POLICIES__SCHEMA", here("schemas/gateway.cedarschema"))
                .current_dir(dir.path())
                .output()
                .unwrap();
            assert_eq!(done.status.code(), Some(1), "a refused start exits 1");
            String::from_utf8(done.stderr).unwrap().replace(&dir.path().display().to_string(), "…")
        }
        Ok(_) => "starts".to_owned(),
        Err(error) => error.to_string().replace(&dir.path().display().to_string(), "…"),
    };
    let mut wrong: Vec<String> =
        expect.says.iter().filter(|text| !said.contains(*text)).map(|t| format!("does not say `{t}`: {said}")).collect();
    if loaded.is_ok() && when.policies.is_none() && when.key_file.is_none() {
        wrong.push("it starts".into());
    }
    Played { wrong, shown: format!("{said}\n"), answer: None }
}

fn save(dir: &Path, files: &BTreeMap<String, String>) {
    for (path, text) in files {
        std::fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
        std::fs::write(dir.join(path), text).unwrap();
    }
}
