#!/bin/sh
# Makes a CA and the certificate with which the devices show their metrics. usage: prepare.sh FOLDER
set -eu
mkdir -p "$1" && cd "$1"
umask 077
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
    -subj /CN=mill-ca -keyout ca.key -out ca.pem
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
    -subj /CN=devices -keyout device.key -out device.csr
printf 'subjectAltName=DNS:mill-server,DNS:mill-cam,DNS:annex-cam\n' >device.ext
openssl x509 -req -in device.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 \
    -extfile device.ext -out device.pem
