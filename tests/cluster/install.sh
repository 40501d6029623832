#!/usr/bin/env bash
# Installs the system packages that the lab and the virtual environment need, where something is missing and
# root or passwordless sudo allows it; else says what is missing. Starts no service.
# Usage: install.sh [lab] [venv]   (default: both; PYTHON names the interpreter for venv)
set -euo pipefail
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
python=${PYTHON:-python3}

# "package: programs it brings"; a program named a|b is there when either is.
lab=(
  "slurm-wlm: slurmctld slurmd sbatch srun squeue scontrol"
  "slurmdbd: slurmdbd"
  "munge: munged"
  "mariadb-server: mariadbd mariadb-install-db mariadb-admin"
  "redis-server: redis-server|valkey-server"
  "tmux: tmux"
  "zsh: zsh"
  "fish: fish"
  "chromium: chromium"
  "prometheus: prometheus promtool"
)

missing=()
need_lab() {
  local entry program
  for entry in "${lab[@]}"; do
    for program in ${entry#*: }; do
      command -v "${program%|*}" >/dev/null || command -v "${program#*|}" >/dev/null || { missing+=("${entry%%:*}"); break; }
    done
  done
}
need_venv() {
  command -v "$python" >/dev/null || missing+=(python3)
  "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
}

for wanted in "${@:-lab venv}"; do
  for part in $wanted; do
    case $part in lab | venv) "need_$part" ;; *) echo "usage: $0 [lab] [venv]" >&2; exit 2 ;; esac
  done
done
[ ${#missing[@]} -eq 0 ] && exit 0

refuse() {
  echo "missing system packages: ${missing[*]}" >&2
  echo "$1; on Debian or Ubuntu: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
}
command -v apt-get >/dev/null || refuse "no apt-get here, install their equivalents"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  sudo -n true 2>/dev/null || refuse "neither root nor passwordless sudo"
  as_root=(sudo -n)
fi

# Debian starts services at installation unless a policy says no; ours lasts only as long as this script.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  trap '"${as_root[@]}" rm -f $policy' EXIT
  trap 'exit 130' INT TERM
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy >/dev/null
  "${as_root[@]}" chmod 755 $policy
fi

log=$(mktemp)
install() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    -o DPkg::Lock::Timeout=120 "${missing[@]}" </dev/null >"$log" 2>&1
}
echo "installing ${missing[*]}"
if ! install; then
  "${as_root[@]}" apt-get update -q -o DPkg::Lock::Timeout=120 </dev/null >/dev/null || true
  install || { tail -n 20 "$log" >&2; rm -f "$log"; refuse "apt-get could not install them"; }
fi
rm -f "$log"
