//! Runs through the real bootloader: output, steps, limits, input hints, failures.

use cairo_lang_casm::casm;

use super::*;
use crate::limits;
use crate::sample::{self, SampleHint};

fn request(program: &[u8], args: Option<&str>, max_steps: u64) -> RunRequest {
    let program = Program::load(program).unwrap();
    let args = Arguments::parse(program.kind(), args.map(str::as_bytes)).unwrap();
    let binding = [Felt::from_u128(7), Felt::from_u128(8)];
    RunRequest {
        program,
        args,
        hash_function: HashFunction::Poseidon,
        binding,
        max_steps,
        output_rule: OutputRule::Quorum,
        trace: false,
    }
}

fn failure(result: Result<Run, RunError>) -> (FailureReason, String, u64) {
    match result {
        Err(RunError::Failed { reason, detail, steps }) => (reason, detail, steps),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the run ended well"),
    }
}

/// A program that outputs one number read by a hint, under `key`.
fn reader(code: &str) -> Vec<u8> {
    let context = casm! {
        ap += 1;
        [fp] = [[fp - 3]];
        [ap] = [fp - 3] + 1, ap++;
        ret;
    };
    let hint = SampleHint { at: 2, code, variables: &[("n", "[cast(fp, felt*)]")] };
    sample::cairo0_json(&sample::assemble(&context.instructions), &["output"], &[hint])
}

#[test]
fn output_steps_and_hash_of_a_program() {
    for rounds in [1, 10, 1000] {
        let run = run(request(&sample::fibonacci(rounds), None, 1 << 20)).unwrap();
        assert_eq!(run.output, [felt::from_vm(&sample::fibonacci_number(rounds))]);
        let own = Program::load(&sample::fibonacci(rounds)).unwrap().hash(HashFunction::Poseidon).unwrap();
        assert_eq!(run.program_hash, own);
        assert!(run.steps > rounds * sample::FIBONACCI_STEPS_PER_ROUND && run.total_steps > run.steps);
    }
    let steps = |rounds| run(request(&sample::fibonacci(rounds), None, 1 << 20)).unwrap().steps;
    // Seven steps of main and three of the innermost call.
    assert_eq!(steps(10), 10 * sample::FIBONACCI_STEPS_PER_ROUND + 10);
}

#[test]
fn steps_and_output_depend_neither_on_the_trace_nor_on_the_binding() {
    let base = run(request(&sample::fibonacci(50), None, 1 << 20)).unwrap();
    let mut other = request(&sample::fibonacci(50), None, 1 << 20);
    other.trace = true;
    other.binding = [Felt::from_u128(1 << 100), Felt::ZERO];
    let other = run(other).unwrap();
    assert_eq!((base.steps, base.output, base.total_steps), (other.steps, other.output, other.total_steps));
}

#[test]
fn the_step_limit_is_exact() {
    let steps = run(request(&sample::fibonacci(50), None, 1 << 20)).unwrap().steps;
    assert_eq!(run(request(&sample::fibonacci(50), None, steps)).unwrap().steps, steps);
    for limit in [1, steps / 2, steps - 1] {
        let (reason, detail, at) = failure(run(request(&sample::fibonacci(50), None, limit)));
        assert_eq!((reason, at), (FailureReason::StepLimit, limit), "{detail}");
    }
    let endless = casm! { jmp rel 0; };
    let endless = sample::cairo0_json(&sample::assemble(&endless.instructions), &["output"], &[]);
    assert_eq!(failure(run(request(&endless, None, 5000))).0, FailureReason::StepLimit);
    // A limit above what this build takes is no verdict about the program.
    let over = run(request(&endless, None, limits::STEPS_MAX + 1));
    assert!(matches!(over, Err(RunError::Resources { .. })));
}

#[test]
fn input_hints_read_the_arguments() {
    let program = reader("ids.n = program_input['n']");
    for (args, expected) in [(r#"{"n": 5}"#, 5), (r#"{"n": "0x10"}"#, 16)] {
        let run = run(request(&program, Some(args), 1000)).unwrap();
        assert_eq!(run.output, [Felt::from_u128(expected)]);
    }
    let (reason, detail, _) = failure(run(request(&program, Some(r#"{"m": 5}"#), 1000)));
    assert_eq!(reason, FailureReason::Hint);
    assert!(detail.contains("program_input['n']") && detail.contains("missing"), "{detail}");
    assert_eq!(failure(run(request(&program, None, 1000))).0, FailureReason::Hint);
    let path = std::env::current_exe().unwrap();
    let args = serde_json::json!({"n": path.to_str().unwrap()}).to_string();
    let (reason, detail, _) = failure(run(request(&program, Some(&args), 1000)));
    assert!(reason == FailureReason::Hint && detail.contains("no integer"), "{detail}");
}

#[test]
fn input_hints_fill_lists() {
    let second = casm! {
        ap += 1;
        [ap] = [[fp] + 1], ap++;
        [ap - 1] = [[fp - 3]];
        [ap] = [fp - 3] + 1, ap++;
        ret;
    };
    let code = "ids.n = segments.gen_arg(program_input['v'])";
    let hint = SampleHint { at: 2, code, variables: &[("n", "[cast(fp, felt*)]")] };
    let program = sample::cairo0_json(&sample::assemble(&second.instructions), &["output"], &[hint]);
    let run_with = |args: &str| run(request(&program, Some(args), 1000));
    assert_eq!(run_with(r#"{"v": [1, 22, 3]}"#).unwrap().output, [Felt::from_u128(22)]);
    // The second item is a list: its cell holds an address, and an address is no output.
    let (reason, detail, _) = failure(run_with(r#"{"v": [1, [2], 3]}"#));
    assert_eq!(reason, FailureReason::Execution, "{detail}");
    let deep = format!("{{\"v\": {}1{}}}", "[".repeat(12), "]".repeat(12));
    assert!(failure(run_with(&deep)).1.contains("deep"));
    let many = format!("{{\"v\": [{}1]}}", "1,".repeat(limits::INPUT_NUMBERS_MAX));
    assert!(failure(run_with(&many)).1.contains("numbers"));
}

#[test]
fn a_failed_assertion_is_a_failure_at_its_step() {
    let context = casm! { [ap] = 1, ap++; [ap - 1] = 2; ret; };
    let program = sample::cairo0_json(&sample::assemble(&context.instructions), &["output"], &[]);
    let (reason, detail, steps) = failure(run(request(&program, None, 1000)));
    assert_eq!(reason, FailureReason::Execution);
    assert!(detail.contains("at program word 2"), "{detail}");
    assert!(steps < 10);
}

#[test]
fn a_jump_into_the_bootloader_does_not_run_its_hints() {
    // The return address is behind the call; one word before it are the hints that start a task.
    let context = casm! { [ap] = [fp - 1] + (-1), ap++; jmp abs [ap - 1]; };
    let program = sample::cairo0_json(&sample::assemble(&context.instructions), &["output"], &[]);
    let (reason, detail, _) = failure(run(request(&program, None, 1000)));
    assert_eq!(reason, FailureReason::Hint);
    assert!(detail.contains("jumped into the bootloader"), "{detail}");
}

#[test]
fn a_program_that_claims_more_output_than_it_wrote_fails() {
    let context = casm! { [ap] = [fp - 3] + 3, ap++; ret; };
    let program = sample::cairo0_json(&sample::assemble(&context.instructions), &["output"], &[]);
    assert_eq!(failure(run(request(&program, None, 1000))).0, FailureReason::Execution);
}

#[test]
fn bookkeeping_of_the_bootloader_is_not_counted_whatever_the_builtins() {
    let all = [
        "output",
        "pedersen",
        "range_check",
        "ecdsa",
        "bitwise",
        "ec_op",
        "keccak",
        "poseidon",
        "range_check96",
        "add_mod",
        "mul_mod",
    ];
    for builtins in [&all[..0], &all[..1], &all[..3], &all[..]] {
        let n = i16::try_from(builtins.len()).unwrap();
        let mut instructions = Vec::new();
        for i in 0..n {
            let offset = i - 2 - n;
            instructions.extend(casm! { [ap] = [fp + offset], ap++; }.instructions);
        }
        instructions.extend(casm! { ret; }.instructions);
        let program = sample::cairo0_json(&sample::assemble(&instructions), builtins, &[]);
        let run = run(request(&program, None, 1000)).unwrap();
        assert_eq!(run.steps, u64::try_from(n).unwrap() + 1, "{builtins:?}");
    }
}

#[test]
fn a_run_with_another_output_than_the_job_fixes_has_failed() {
    let program = sample::fibonacci(10);
    let good = run(request(&program, None, 1_000)).unwrap();
    assert!(!good.output.is_empty());
    let with = |output_rule| run(RunRequest { output_rule, ..request(&program, None, 1_000) });
    assert!(with(OutputRule::Prefix(good.output.clone())).is_ok());
    let mut other = good.output.clone();
    other.push(Felt::from_u128(1));
    for rule in
        [OutputRule::Prefix(other.clone()), OutputRule::Exact(other), OutputRule::Prefix(vec![Felt::from_u128(9)])]
    {
        let (reason, detail, steps) = failure(with(rule));
        assert_eq!((reason, steps), (FailureReason::Output, good.steps), "{detail}");
    }
}
