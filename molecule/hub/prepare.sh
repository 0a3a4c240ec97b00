#!/bin/sh
# Makes a CA, the certificate of the site's broker and a password. usage: prepare.sh FOLDER
set -eu
mkdir -p "$1" && cd "$1"
umask 077
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
    -subj /CN=quay-ca -keyout ca.key -out ca.pem
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
    -subj /CN=quay-server -keyout server.key -out server.csr
printf 'subjectAltName=DNS:quay-server\n' >server.ext
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 \
    -extfile server.ext -out server.pem
echo collects-everything >collector-password
