//! docker-compose: the API from the Dockerfile before one Redis, and the contract against it.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::http::request;
use crate::packages::{self, Need};
use crate::progress::step;
use crate::{command, contract, engine, images};

/// Name of the image that docker-compose.yml builds.
pub(crate) const IMAGE: &str = "cachecluster/api:compose";

/// `cargo xtask compose`
pub(crate) fn task() -> Result<()> {
    engine::ensure()?;
    images::build()?;
    let checks = check()?;
    println!("{checks} answers as the contract has them");
    Ok(())
}

/// Starts it, goes through the contract, and takes it down again; the number of checks made.
///
/// # Errors
/// When it does not come up, or an answer differs.
pub(crate) fn check() -> Result<usize> {
    packages::ensure(&[Need::Compose])?;
    engine::ensure()?;
    step(
        "getting the images that the Dockerfile and docker-compose.yml name",
        || images::ensure_public(&[images::DEFAULT_ENGINE, &builder_image()?]),
    )?;
    let outcome = step("docker-compose up --build", || {
        command::run("compose-up", compose()?.args(["up", "--build", "--detach"]))
    })
    .and_then(|()| answers());
    let removed = step("docker-compose down", || {
        command::run(
            "compose-down",
            compose()?.args(["down", "--volumes", "--remove-orphans"]),
        )
    });
    let checks = outcome?;
    removed?;
    Ok(checks)
}

fn answers() -> Result<usize> {
    let api = SocketAddr::from((Ipv4Addr::LOCALHOST, 5000));
    let deadline = Instant::now() + Duration::from_secs(60);
    while !request(api, "GET", "/health", None).is_ok_and(|answer| answer.status == 200) {
        if Instant::now() > deadline {
            bail!("the API does not answer on {api} after a minute");
        }
        thread::sleep(Duration::from_millis(200));
    }
    contract::check(api)
}

/// Compose as a plugin of the client (v2), or as a program of its own (v1).
fn compose() -> Result<Command> {
    if command::find("docker-compose").is_some() {
        return Ok(Command::new("docker-compose"));
    }
    let mut docker = Command::new("docker");
    docker.arg("compose");
    Ok(docker)
}

/// The image that the Dockerfile builds in, as it says itself.
///
/// # Errors
/// When it cannot be read or does not say so.
pub(crate) fn builder_image() -> Result<String> {
    let dockerfile = std::fs::read_to_string("Dockerfile").context("read Dockerfile")?;
    let argument = dockerfile
        .lines()
        .find_map(|line| line.strip_prefix("ARG RUST_IMAGE="));
    Ok(argument
        .context("the Dockerfile names no RUST_IMAGE")?
        .to_owned())
}
