//! Runs seeds of the simulation: `simulate --seed 7`, `simulate --seeds 10000 [--from 0]`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use tenure_conformance::simulation::{self, Tally};

fn main() -> ExitCode {
    match Order::parse(std::env::args().skip(1)) {
        Ok(order) => order.run(),
        Err(what) => {
            eprintln!("simulate: {what}; use --seed N, or --seeds COUNT [--from N]");
            ExitCode::from(64)
        }
    }
}

struct Order {
    from: u64,
    count: u64,
}

impl Order {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut order = Self { from: 0, count: 1_000 };
        while let Some(flag) = args.next() {
            let value = args.next().ok_or_else(|| format!("{flag} needs a number"))?;
            let number = value.parse().map_err(|_| format!("{flag} needs a number, not {value:?}"))?;
            match flag.as_str() {
                "--seed" => order = Self { from: number, count: 1 },
                "--seeds" => order.count = number,
                "--from" => order.from = number,
                _ => return Err(format!("{flag:?} is not known")),
            }
        }
        Ok(order)
    }

    fn run(&self) -> ExitCode {
        let mut total = Tally::default();
        let mut broken = 0;
        for (done, seed) in (self.from..self.from.saturating_add(self.count)).enumerate() {
            match simulation::run(seed, None) {
                Ok(tally) => total = total.and(tally),
                Err(violation) => {
                    broken += 1;
                    println!("{violation}");
                }
            }
            if (done + 1) % 500 == 0 {
                eprintln!("{} of {} seeds, {broken} broken, {total:?}", done + 1, self.count);
            }
        }
        println!("{} seeds, {broken} broken: {total:?}", self.count);
        if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
