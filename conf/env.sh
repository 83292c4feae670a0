# Source this file, from any directory: it lets the dagster and dg commands find the project and its home.
if [ -n "${ZSH_VERSION:-}" ]; then
    eval '_naics_file=${(%):-%x}'
else
    _naics_file=${BASH_SOURCE:-conf/env.sh}
fi
_naics_root=$(CDPATH= cd -- "$(dirname -- "$_naics_file")/.." && pwd)

export DAGSTER_MODULE_NAME="${DAGSTER_MODULE_NAME:-naics_pipeline.definitions}"
export DAGSTER_HOME="${DAGSTER_HOME:-$_naics_root/dagster_home}"
# Runs, their settings and their logs are the user's alone; a home of somebody's own stays as it is.
if [ -O "$_naics_root/dagster_home" ]; then chmod go-rwx "$_naics_root/dagster_home"; fi
export MLFLOW_DISABLE_TELEMETRY="${MLFLOW_DISABLE_TELEMETRY:-true}"
if [ -z "${VIRTUAL_ENV:-}" ] && [ -x "$_naics_root/.venv/bin/dagster" ]; then
    export PATH="$_naics_root/.venv/bin:$PATH"
fi
unset _naics_file _naics_root

# The webserver of `dagster dev` finds the module by itself; told of it twice, through DAGSTER_MODULE_NAME, it hangs.
dagster() { if [ "${1:-}" = dev ]; then env -u DAGSTER_MODULE_NAME dagster "$@"; else command dagster "$@"; fi; }
dg() { if [ "${1:-}" = dev ]; then env -u DAGSTER_MODULE_NAME dg "$@"; else command dg "$@"; fi; }
