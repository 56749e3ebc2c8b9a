"""What people paste from the documents: every command is accepted, and the cluster manifests are what clusters take."""

import re
import shlex
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

import apg
import dqn
import evolve_policy
import meta_evolve_loss
import ppo
import ppo_rnn
import pqn
from runner.evolution import CompareOptions, Evolution
from runner.plan import command_line
from runner.plan.errors import UsageError
from runner.plan.script import Script
from runner.policies import Policies

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
SCALE = (ROOT / "docs/scale.md").read_text()
TRAINING = {"ppo.py": ppo, "ppo_rnn.py": ppo_rnn, "dqn.py": dqn, "pqn.py": pqn, "apg.py": apg}
TRAINING |= {"evolve_policy.py": evolve_policy}
COMMAND = re.compile(r"^(?:\.venv/bin/)?python (\w+\.py)(.*)", re.MULTILINE)


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def accept(name, words):
    """Reads a command line as the script would; raises UsageError, or leaves with argparse's exit code, if it can't."""
    if name != "meta_evolve_loss.py":
        module = TRAINING[name]
        parts = module.Config, module.make_env, module.make_train, module.make_policy
        return command_line.make_plan(Script(ROOT / name, *parts, Policies()), words)
    if words[:1] == ["evaluate"]:
        return command_line.read_arguments(name, "", words[1:], run=CompareOptions())
    parts = meta_evolve_loss.Config, ppo.make_env, meta_evolve_loss.make_train, None
    return command_line.make_plan(Script(ROOT / name, *parts, Evolution(meta_evolve_loss)), words)


def shown():
    for path in DOCUMENTS:
        for block in blocks(path.read_text(), "bash"):
            for name, words in COMMAND.findall(block):
                if (ROOT / name).exists():
                    yield name, words.strip()


@pytest.mark.parametrize("name, words", list(shown()))
def test_every_command_shown_is_accepted(name, words):
    try:
        accept(name, shlex.split(words, comments=True))
    except UsageError as error:  # of a suite that is not installed, the name is known all the same
        if "needs the package" not in str(error):
            raise
        pytest.skip(str(error))


def test_a_command_that_is_not_accepted_would_be_noticed():
    with pytest.raises(UsageError, match="no flag --num-seed"):
        accept("ppo.py", ["--num-seed", "8"])


def test_the_slurm_script_starts_a_run_and_then_goes_on_with_it(tmp_path):
    """With an srun that only prints: what each task of the job would be."""
    [script] = [block for block in blocks(SCALE, "bash") if "#SBATCH" in block]
    job = f'srun() {{ echo "$@"; }}\n{script}'

    def submit():
        return subprocess.run(["bash", "-euc", job], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    [(name, words)] = COMMAND.findall(submit())
    plan = accept(name, shlex.split(words))
    assert plan.options.distributed and len(plan.members) == 64 * 64
    (tmp_path / plan.run_dir).mkdir(parents=True)
    assert COMMAND.findall(submit()) == [(name, f" --resume {plan.run_dir} --distributed")]


def test_the_kubernetes_job_is_valid_and_its_command_is_accepted():
    [manifest] = blocks(SCALE, "yaml")
    service, job = yaml.safe_load_all(manifest)
    for resource in (service, job):
        kubernetes_validate.validate(resource, "1.31", strict=True)
    [container] = job["spec"]["template"]["spec"]["containers"]
    command = container["args"][0].removeprefix("exec ").replace("$JOB_COMPLETION_INDEX", "3")
    [(name, words)] = COMMAND.findall(command)
    options = accept(name, shlex.split(words)).options
    assert options.num_processes == job["spec"]["completions"] == job["spec"]["parallelism"] == 4
    # Pod 0 of an indexed Job is JOB-0, and found as JOB-0.SERVICE where `subdomain` names the Service
    host = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert options.coordinator.split(":")[0] == host and options.process_id == 3
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"]["job-name"] == job["metadata"]["name"]
