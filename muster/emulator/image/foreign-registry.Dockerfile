ARG BASE
FROM ${BASE}
ARG ARCHITECTURE
ADD packages.tar /srv/foreign/
RUN mv /srv/foreign/site-packages /srv/site-packages/${ARCHITECTURE} \
 && cd /srv/site-packages/${ARCHITECTURE} \
 && apt-ftparchive packages . >Packages \
 && gzip -9 --keep Packages \
 && apt-ftparchive release . >Release.new \
 && mv Release.new Release
