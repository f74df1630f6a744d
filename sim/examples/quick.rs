use tradewind_sim::{profile::Profile, run::run};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let profile = Profile::ALL.into_iter().find(|p| p.name() == args[1]).unwrap();
    let (a, b): (u64, u64) = (args[2].parse().unwrap(), args[3].parse().unwrap());
    let minutes: u64 = args.get(4).map_or(3, |m| m.parse().unwrap());
    if std::env::var("RUST_LOG").is_ok() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .without_time()
            .init();
    }
    for seed in a..b {
        let scenario = profile.draw(seed, minutes);
        let t = std::time::Instant::now();
        let r = run(&scenario, std::env::var("TRACE").is_ok());
        println!(
            "{seed} {} {:.2?} virt {} s req {} {} {:?}",
            r.passed(),
            t.elapsed(),
            r.virtual_seconds,
            r.requests,
            r.trace,
            r.counts
        );
        for f in r.failures.iter().take(4) {
            println!("   {f}");
        }
        for l in &r.lines {
            println!("{l}");
        }
    }
}
