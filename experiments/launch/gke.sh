#!/usr/bin/env bash
# A run on a Kubernetes cluster with JobSet, as on GKE; one pod a machine:
#
#   IMAGE=REGISTRY/ctrain PODS=2 CLAIM=runs bash experiments/launch/gke.sh \
#     --config=configs/continual/er.py --workdir=/runs/er --seeds=5
#
# The arguments are those of experiments.continual. What is applied is a JobSet of one indexed Job.
#
# IMAGE                           has the checkout as its working folder, and jax[cuda13] or jax[tpu]
# NAME=ctrain                     of the JobSet
# PODS=2                          processes: machines with GPUs, or hosts of a TPU slice
# CHIPS=8                         GPUs or TPU chips of a pod
# ACCELERATOR=nvidia-h100-80gb    of the nodes; of TPUs as in ACCELERATOR=tpu-v5-lite-podslice
# TOPOLOGY                        of a TPU slice, as in TOPOLOGY=4x4; none: GPUs
# CLAIM=ctrain                    a volume claim that all pods may write (ReadWriteMany), mounted at /runs
# PYTHON=python                   in the image
# RESTARTS=20                     of all pods together, when one of them fails
# DRY_RUN=1                       print the manifest, and apply nothing
set -eu

: "${IMAGE:?the image of the pods, as in IMAGE=REGISTRY/ctrain}"
name=${NAME:-ctrain} pods=${PODS:-2} port=55527
if [ -n "${TOPOLOGY:-}" ]; then
  resource=google.com/tpu label=cloud.google.com/gke-tpu-accelerator
  set -- --distributed "$@"
else
  resource=nvidia.com/gpu label=cloud.google.com/gke-accelerator
  set -- "--coordinator=$name-run-0-0.$name:$port" "--processes=$pods" '--process=$(JOB_COMPLETION_INDEX)' "$@"
fi

quoted() {
  printf "'%s'" "$(printf %s "$1" | sed "s/'/''/g")"
}

manifest() {
  cat <<EOF
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
spec:
  failurePolicy: # all pods start again together, but not after what every start would end with
    maxRestarts: ${RESTARTS:-20}
    rules:
    - name: hopeless
      action: FailJobSet
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: run
    replicas: 1
    template:
      spec:
        completionMode: Indexed
        completions: $pods
        parallelism: $pods
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes: {containerName: run, operator: In, values: [2, 3]}
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: 120
            nodeSelector:
              $label: $(quoted "${ACCELERATOR:-nvidia-h100-80gb}")
EOF
  [ -z "${TOPOLOGY:-}" ] || echo "              cloud.google.com/gke-tpu-topology: $(quoted "$TOPOLOGY")"
  cat <<EOF
            containers:
            - name: run
              image: $(quoted "$IMAGE")
              command:
EOF
  for word in "${PYTHON:-python}" -m experiments.continual "$@"; do
    echo "              - $(quoted "$word")"
  done
  cat <<EOF
              env:
              - name: JOB_COMPLETION_INDEX
                valueFrom:
                  fieldRef:
                    fieldPath: metadata.annotations['batch.kubernetes.io/job-completion-index']
              - {name: PYTHONUNBUFFERED, value: '1'}
              ports:
              - containerPort: $port
              resources:
                limits: {$resource: ${CHIPS:-8}}
              volumeMounts:
              - {name: runs, mountPath: /runs}
              - {name: shm, mountPath: /dev/shm}
            volumes:
            - name: runs
              persistentVolumeClaim: {claimName: $(quoted "${CLAIM:-ctrain}")}
            - name: shm # NCCL wants more than the 64 MB of a container
              emptyDir: {medium: Memory}
EOF
}

if [ "${DRY_RUN:-0}" = 1 ]; then
  manifest "$@"
else
  manifest "$@" | kubectl apply -f -
fi
