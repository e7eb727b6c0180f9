#!/bin/sh
# MLflow on this machine's loopback, behind its basic-auth app. The password of its user `admin` is made where there is none, and kept
# where MLflow's clients look for it, in ~/.mlflow/credentials. Nobody else may read what is in that folder.
# MLFLOW_BACKEND_STORE_URI, MLFLOW_ARTIFACTS_DESTINATION and MLFLOW_PORT say where runs and artifacts go, and the port.
set -eu
umask 077
mkdir -p ~/.mlflow
cd ~/.mlflow

secret() { python3 -c 'import secrets; print(secrets.token_urlsafe(32))'; }

if [ ! -e auth.ini ]; then
    if [ -e credentials ]; then
        echo "$PWD/credentials is there already, for another server; move it away" >&2
        exit 1
    fi
    password=$(secret)
    secret > flask-key
    cat > credentials <<END
[mlflow]
mlflow_tracking_username = admin
mlflow_tracking_password = $password
END
    cat > auth.ini <<END
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = sqlite:///$PWD/auth.db
admin_username = admin
admin_password = $password
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
END
fi

export MLFLOW_AUTH_CONFIG_PATH="$PWD/auth.ini"
export MLFLOW_FLASK_SERVER_SECRET_KEY="$(cat flask-key)"
export MLFLOW_BACKEND_STORE_URI="${MLFLOW_BACKEND_STORE_URI:-sqlite:///$PWD/mlflow.db}"
export MLFLOW_ARTIFACTS_DESTINATION="${MLFLOW_ARTIFACTS_DESTINATION:-$PWD/artifacts}"
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
exec mlflow server --app-name basic-auth --host 127.0.0.1 --port "${MLFLOW_PORT:-5000}"
