//! The images of this checkout, made quickly: the binaries are built by cargo here, static, and each is copied onto
//! nothing. The Dockerfile makes the same from source; `cargo xtask compose` builds that way.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::progress::step;
use crate::{command, engine};

/// Tag of what is built here.
pub(crate) const TAG: &str = "dev";
/// Tag that the chart takes by default, so that a plain `helm install` finds the images, too.
const RELEASE: &str = env!("CARGO_PKG_VERSION");
/// One folder for each image, with what goes into it.
const CONTEXTS: &str = "target/xtask/images";
/// Marks what `down` may remove.
const LABEL: &str = "io.cachecluster.checkout=true";
/// What a cluster needs to run caches. `e2e` is the prober of the scenarios.
const NAMES: &[&str] = &["operator", "api", "agent", "e2e"];
/// How each of them is compiled: the profiles of Cargo.toml. What talks to Kubernetes is large, and made small.
const PROFILES: &[(&str, &[&str])] = &[
    ("release", &["api", "agent"]),
    ("compact", &["operator", "e2e"]),
];
/// Those of them that users pull.
const SHIPPED: &[&str] = &["operator", "api", "agent"];
/// Bytes that such an image may have.
const LARGEST: u64 = 20 << 20;

/// The engine that caches run by default.
pub(crate) const DEFAULT_ENGINE: &str = "redis:8.2";
/// The engines that the scenarios try.
pub(crate) const ENGINES: &[&str] = &[DEFAULT_ENGINE, "valkey/valkey:9.1"];

/// `cargo xtask images`
pub(crate) fn task() -> Result<()> {
    engine::ensure()?;
    build()?;
    let builder = crate::compose::builder_image()?;
    step("getting the public images", || {
        let needed: Vec<_> = ENGINES.iter().copied().chain([builder.as_str()]).collect();
        ensure_public(&needed)
    })?;
    for name in all() {
        println!("{name}");
    }
    check_sizes()?;
    Ok(())
}

/// Prints the size of each image that a cluster runs, and fails if one is above its bound; how many there are.
///
/// # Errors
/// When one is too large or was not built.
pub(crate) fn check_sizes() -> Result<usize> {
    let mut too_large = Vec::new();
    for name in SHIPPED {
        let image = format!("cachecluster/{name}:{TAG}");
        let size = command::output(Command::new("docker").args([
            "image",
            "inspect",
            "--format",
            "{{.Size}}",
            &image,
        ]))?;
        let said = judge_size(&image, size.parse().context("the image's size")?);
        println!("{}", said.as_ref().unwrap_or_else(|said| said));
        too_large.extend(said.err());
    }
    if !too_large.is_empty() {
        bail!("{}", too_large.join("; "));
    }
    Ok(SHIPPED.len())
}

/// The image's size in words; an error if it is above the bound.
fn judge_size(image: &str, bytes: u64) -> Result<String, String> {
    let hundredths = bytes.saturating_mul(100) >> 20;
    let said = format!("{image} {}.{:02} MiB", hundredths / 100, hundredths % 100);
    if bytes > LARGEST {
        return Err(format!("{said}, above {} MiB", LARGEST >> 20));
    }
    Ok(format!("{said} (≤ {})", LARGEST >> 20))
}

/// Builds all images.
///
/// # Errors
/// When cargo or the engine fails.
pub(crate) fn build() -> Result<()> {
    // Two at once would pull the files from under each other's feet. The lock goes with the process.
    fs::create_dir_all(CONTEXTS)?;
    let alone = fs::File::create(format!("{CONTEXTS}.lock"))?;
    alone
        .lock()
        .context("wait for another task that builds images")?;
    step("building the binaries (cargo, release, static)", compile)?;
    step("building the images", || {
        NAMES.iter().try_for_each(|name| pack(name))
    })
}

/// Where cargo puts the static binary of an image of this checkout, e.g. `e2e`.
///
/// # Errors
/// When rustc does not tell its platform.
pub(crate) fn binary(name: &str) -> Result<PathBuf> {
    let made = PROFILES.iter().find(|(_, names)| names.contains(&name));
    let (profile, _) = made.with_context(|| format!("no profile makes {name}"))?;
    Ok(PathBuf::from("target")
        .join(host()?)
        .join(profile)
        .join(format!("cachecluster-{name}")))
}

fn compile() -> Result<()> {
    for (profile, names) in PROFILES {
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--profile", profile, "--locked"]);
        for name in *names {
            cargo.args(["--package", &format!("cachecluster-{name}")]);
        }
        // A target must be named, or the flags would reach build scripts and procedural macros as well.
        cargo
            .args(["--target", &host()?])
            .env("RUSTFLAGS", "-C target-feature=+crt-static");
        command::run(&format!("build-{profile}"), &mut cargo)?;
    }
    Ok(())
}

fn pack(name: &str) -> Result<()> {
    let program = format!("cachecluster-{name}");
    let context = PathBuf::from(CONTEXTS).join(name);
    fs::create_dir_all(&context)?;
    fs::copy(binary(name)?, context.join(&program)).with_context(|| format!("copy {program}"))?;
    fs::write(
        context.join("Dockerfile"),
        format!(
            "FROM scratch\nLABEL {LABEL}\nCOPY {program} /{program}\nUSER 65532:65532\nENTRYPOINT [\"/{program}\"]\n"
        ),
    )?;
    let mut docker = Command::new("docker");
    docker.args(["build", "--quiet"]);
    for tag in [TAG, RELEASE] {
        docker.args(["--tag", &format!("cachecluster/{name}:{tag}")]);
    }
    command::run(&format!("image-{name}"), docker.arg(&context))
}

/// Every image of this checkout, by its names.
pub(crate) fn all() -> Vec<String> {
    let tagged = |name| [TAG, RELEASE].map(|tag| format!("cachecluster/{name}:{tag}"));
    NAMES.iter().flat_map(tagged).collect()
}

/// What tells whether the operator's image changed.
///
/// # Errors
/// When it was not built.
pub(crate) fn operator_id() -> Result<String> {
    let name = format!("cachecluster/operator:{TAG}");
    command::output(Command::new("docker").args(["image", "inspect", "--format", "{{.Id}}", &name]))
}

/// Makes sure that the engine has these public images, or stand-ins for them.
///
/// # Errors
/// When one can neither be pulled nor made.
pub(crate) fn ensure_public(names: &[&str]) -> Result<()> {
    command::run(
        "public-images",
        Command::new("testbed/images").arg("ensure").args(names),
    )
}

/// Removes everything that was built here, and the stand-ins.
///
/// # Errors
/// When the engine refuses.
pub(crate) fn remove() -> Result<()> {
    let labelled = format!("label={LABEL}");
    let ids = command::output(
        Command::new("docker").args(["image", "ls", "--quiet", "--filter", &labelled]),
    )?;
    let compose = command::output(Command::new("docker").args([
        "image",
        "ls",
        "--quiet",
        crate::compose::IMAGE,
    ]))?;
    let ids: std::collections::BTreeSet<_> = ids.lines().chain(compose.lines()).collect();
    if !ids.is_empty() {
        command::output(
            Command::new("docker")
                .args(["image", "rm", "--force"])
                .args(ids),
        )?;
    }
    command::run(
        "public-images",
        Command::new("testbed/images").arg("remove"),
    )
}

fn host() -> Result<String> {
    let version = command::output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not tell its platform")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{LARGEST, judge_size};

    #[test]
    fn every_image_is_made_of_a_binary_of_one_profile() {
        for name in super::NAMES {
            let made = super::PROFILES
                .iter()
                .filter(|(_, names)| names.contains(name));
            assert_eq!(made.count(), 1, "{name}");
        }
    }

    #[test]
    fn an_image_above_the_bound_is_refused() {
        assert_eq!(judge_size("a", 5 << 19).unwrap(), "a 2.50 MiB (≤ 20)");
        assert!(judge_size("a", LARGEST).is_ok());
        assert!(judge_size("a", LARGEST + 1).is_err());
    }
}
