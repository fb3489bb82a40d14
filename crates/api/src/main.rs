//! `cachecluster-api`: the HTTP cache API.

use cachecluster_api::Settings;
use cachecluster_telemetry::{logs, shutdown};

fn main() -> anyhow::Result<()> {
    let settings = Settings::from_env()?;
    logs::install(&settings.log, settings.log_format);
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let stop = shutdown::on_signal()?;
            let listeners = cachecluster_api::Listeners::bind(&settings).await?;
            Ok(cachecluster_api::run(settings, listeners, stop).await?)
        })
}
