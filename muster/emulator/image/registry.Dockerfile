ARG BASE
FROM ${BASE}
ADD packages.tar /srv/
RUN cd /srv/site-packages \
 && apt-ftparchive packages . >Packages \
 && gzip -9 --keep Packages \
 && apt-ftparchive release . >Release.new \
 && mv Release.new Release \
 && dpkg --install docker-registry_*.deb \
 && rm -f /etc/ssh/ssh_host_* /etc/docker/registry/config.yml
ADD stand-ins.tar /srv/site-packages/
COPY sign-packages /usr/local/sbin/
RUN /usr/local/sbin/sign-packages /srv/site-packages/vendor
COPY registry.yml /etc/docker/registry/config.yml
COPY registry-start /usr/local/sbin/
EXPOSE 5000 8080
STOPSIGNAL SIGTERM
CMD ["/usr/local/sbin/registry-start"]
